//! How names are compared, and what CloudClusters.jl calls the machine types of the providers.

/// A name as it is compared: lower case, without dots, dashes, underscores and spaces.
pub fn simplified(name: &str) -> String {
    let mut simple = name.to_lowercase();
    simple.retain(|c| !matches!(c, '.' | '-' | '_' | ' '));
    simple
}

/// The platform type of an EC2 machine type or family: `t3.xlarge` is `EC2Type_T3_xLarge`.
///
/// ```
/// use cc_core::platform::machine_name;
/// assert_eq!(machine_name("m7i.metal-24xl"), "EC2Type_M7I_Metal_24xl");
/// assert_eq!(machine_name("c7i-flex"), "EC2Type_C7I_FLEX");
/// ```
pub fn machine_name(name: &str) -> String {
    let (family, size) = match name.split_once('.') {
        Some((family, size)) => (family, Some(size)),
        None => (name, None),
    };
    let mut text = format!("EC2Type_{}", family.to_uppercase().replace('-', "_"));
    if let Some(size) = size {
        text.push('_');
        // `xlarge` is written xLarge, `large` Large, and `metal-24xl` Metal_24xl.
        match size.strip_suffix("xlarge") {
            Some(times) => text.push_str(&format!("{times}xLarge")),
            None => text.push_str(&capitalised(size).replace('-', "_")),
        }
    }
    text
}

/// The platform type of a GCP machine type or family: `g2-standard-96` is `GCPType_G2_Standard96`.
pub fn gcp_name(name: &str) -> String {
    let mut parts = name.split('-');
    let mut text = format!(
        "GCPType_{}",
        parts.next().unwrap_or_default().to_uppercase()
    );
    for part in parts {
        if part.starts_with(|c: char| c.is_ascii_digit()) {
            text.push_str(part);
        } else {
            text.push('_');
            text.push_str(&capitalised(part));
        }
    }
    text
}

fn capitalised(word: &str) -> String {
    let mut letters = word.chars();
    (letters.next().into_iter())
        .flat_map(char::to_uppercase)
        .chain(letters)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_original_are_made_and_compared() {
        for (name, julia) in [
            ("t3.xlarge", "EC2Type_T3_xLarge"),
            ("t3.2xlarge", "EC2Type_T3_2xLarge"),
            ("t3a.nano", "EC2Type_T3A_Nano"),
            ("m5.metal", "EC2Type_M5_Metal"),
            ("c7a.metal-48xl", "EC2Type_C7A_Metal_48xl"),
            ("t3", "EC2Type_T3"),
        ] {
            assert_eq!(machine_name(name), julia);
        }
        assert_eq!(gcp_name("g2-standard-96"), "GCPType_G2_Standard96");
        assert_eq!(gcp_name("a2-highgpu-1g"), "GCPType_A2_Highgpu1g");
        assert_eq!(simplified("EC2Type_T3_xLarge"), "ec2typet3xlarge");
    }
}
