//! How much of something: ranges of numbers, and the units that they are written in.

use std::fmt;

/// A range of numbers, ends included.
///
/// ```
/// use cc_core::contract::{at_least, between, just, Quantity, Units as _};
/// assert!(at_least(64.gib()).contains(128.gib()));
/// assert!(!just(8).contains(4.0));
/// assert_eq!(Quantity::from(8), between(8, 8));
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quantity {
    low: Option<f64>,
    high: Option<f64>,
}

/// A number of any type.
pub trait Number: Copy {
    /// As a floating-point number, exact up to 2^53.
    fn value(self) -> f64;
}

macro_rules! numbers {
    ($($type:ty),*) => {$(
        impl Number for $type {
            fn value(self) -> f64 {
                self as f64
            }
        }
        impl Least for $type {
            type Assumption = Quantity;
            fn at_least(self) -> Quantity {
                Quantity {
                    low: Some(self.value()),
                    high: None,
                }
            }
        }
        impl From<$type> for Quantity {
            fn from(number: $type) -> Self {
                just(number)
            }
        }
    )*};
}
numbers!(i32, i64, u8, u16, u32, u64, usize, f32, f64);

/// Exactly this much. A plain number means the same.
pub fn just(number: impl Number) -> Quantity {
    between(number, number)
}

/// What can be asked for at least: a number, or the name of a generation.
pub trait Least {
    /// What that assumes.
    type Assumption;
    /// This or more of it.
    fn at_least(self) -> Self::Assumption;
}

/// This much or more; of generations, this one or a newer one of the same line: at least `"Ada"` is
/// Ada, Hopper or Blackwell.
pub fn at_least<L: Least>(least: L) -> L::Assumption {
    least.at_least()
}

/// This much or less.
pub fn at_most(number: impl Number) -> Quantity {
    Quantity {
        low: None,
        high: Some(number.value()),
    }
}

/// From the one to the other, both included.
pub fn between(low: impl Number, high: impl Number) -> Quantity {
    Quantity {
        low: Some(low.value()),
        high: Some(high.value()),
    }
}

impl Quantity {
    /// The least that is in it, if there is a bound.
    pub fn low(self) -> Option<f64> {
        self.low
    }

    /// The most that is in it, if there is a bound.
    pub fn high(self) -> Option<f64> {
        self.high
    }

    /// Whether a number is in it.
    pub fn contains(self, number: f64) -> bool {
        self.low.is_none_or(|low| number >= low) && self.high.is_none_or(|high| number <= high)
    }

    /// Whether any number is in it. Negative numbers are of nothing here.
    pub fn is_possible(self) -> bool {
        let (low, high) = (self.low.unwrap_or(0.0), self.high.unwrap_or(f64::MAX));
        low >= 0.0 && low <= high && high.is_finite()
    }
}

/// Amounts in units, for the arguments of contracts: `64.gib()`, `100.gbit()`.
pub trait Units: Number {
    /// Mebibytes in bytes.
    fn mib(self) -> f64 {
        self.value() * 1024.0 * 1024.0
    }
    /// Gibibytes in bytes.
    fn gib(self) -> f64 {
        self.mib() * 1024.0
    }
    /// Tebibytes in bytes.
    fn tib(self) -> f64 {
        self.gib() * 1024.0
    }
    /// Decimal gigabytes in bytes.
    fn gb(self) -> f64 {
        self.value() * 1e9
    }
    /// Decimal terabytes in bytes.
    fn tb(self) -> f64 {
        self.value() * 1e12
    }
    /// Gigabits per second in bits per second.
    fn gbit(self) -> f64 {
        self.value() * 1e9
    }
}
impl<N: Number> Units for N {}

/// What a number counts, and so what its suffixes mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Things.
    Count,
    /// Bytes of memory: `K` is 1024.
    BinaryBytes,
    /// Bytes of storage: `K` is 1000.
    DecimalBytes,
    /// Bits per second: `K` is 1000.
    BitsPerSecond,
    /// US dollars.
    Dollars,
}

const PREFIXES: &str = "KMGTP";

impl Unit {
    fn base(self) -> f64 {
        match self {
            Self::BinaryBytes => 1024.0,
            _ => 1000.0,
        }
    }

    /// An example of a number in this unit.
    pub fn example(self) -> &'static str {
        match self {
            Self::Count => "4",
            Self::BinaryBytes => "256G",
            Self::DecimalBytes => "900G",
            Self::BitsPerSecond => "100G",
            Self::Dollars => "1.25",
        }
    }

    /// Reads a number with a suffix: `256G`. `GiB` and `GB` say themselves which they are.
    pub fn parse(self, text: &str) -> Option<f64> {
        let text = text.trim();
        let text = match self {
            Self::Dollars => text.strip_prefix('$').unwrap_or(text).trim_start(),
            _ => text,
        };
        let end = text
            .find(|c: char| !c.is_ascii_digit() && !matches!(c, '.' | '_'))
            .unwrap_or(text.len());
        let (digits, suffix) = text.split_at(end);
        let number: f64 = digits
            .replace('_', "")
            .parse()
            .ok()
            .filter(|n: &f64| n.is_finite())?;
        let suffix = suffix.trim().to_ascii_lowercase();
        let mut letters = suffix.chars();
        let power = match letters.next() {
            None => return Some(number),
            Some(letter) => PREFIXES.find(letter.to_ascii_uppercase())? as i32 + 1,
        };
        let base = match (self, letters.as_str()) {
            (Self::Dollars, _) => return None,
            (_, "") => self.base(),
            (Self::BinaryBytes | Self::DecimalBytes, "ib") => 1024.0,
            (Self::BinaryBytes | Self::DecimalBytes, "b") => 1000.0,
            (Self::BitsPerSecond, "bps" | "bit" | "bit/s" | "b/s") => 1000.0,
            _ => return None,
        };
        Some(number * base.powi(power)).filter(|number| number.is_finite())
    }

    /// Writes a number so that [`parse`](Self::parse) gives it back, as short as that allows.
    pub fn print(self, number: f64) -> String {
        if !matches!(self, Self::Dollars | Self::Count) {
            for (index, prefix) in PREFIXES.char_indices().rev() {
                let size = self.base().powi(index as i32 + 1);
                let text = format!("{}{prefix}", number / size);
                if number >= size && text.len() <= 8 && self.parse(&text) == Some(number) {
                    return text;
                }
            }
        }
        format!("{number}")
    }
}

/// A quantity in a unit, as contracts write it: `>= 256G`.
#[derive(Debug, Clone, Copy)]
pub struct Printed(pub Quantity, pub Unit);

impl fmt::Display for Printed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(quantity, unit) = self;
        let print = |number| unit.print(number);
        match (quantity.low, quantity.high) {
            (Some(low), Some(high)) if low == high => write!(f, "= {}", print(low)),
            (Some(low), Some(high)) => write!(f, "= {}..{}", print(low), print(high)),
            (Some(low), None) => write!(f, ">= {}", print(low)),
            (None, Some(high)) => write!(f, "<= {}", print(high)),
            (None, None) => f.write_str(">= 0"),
        }
    }
}

impl Quantity {
    /// Reads a quantity behind its operator: `4`, `at_least(4)`, `4..8`, `between(4, 8)`. An
    /// operator in front (`>=`, `<=`, `=`) may be part of the text.
    pub fn parse(operator: &str, text: &str, unit: Unit) -> Option<Self> {
        let text = text.trim();
        let inner = (["==", ">=", "<=", "=", "≥", "≤"].iter())
            .find_map(|sign| text.strip_prefix(sign).map(|rest| (*sign, rest)));
        let (operator, text) = match inner {
            // The sign in the value says more than a TOML file's `=` before it.
            Some((sign, rest)) if operator.is_empty() || operator == "=" => (sign, rest.trim()),
            Some(_) => return None,
            None => (operator, text),
        };
        let number = |text: &str| unit.parse(text);
        match operator {
            ">=" | "≥" => return number(text).map(at_least),
            "<=" | "≤" => return number(text).map(at_most),
            "" | "=" | "==" => {}
            _ => return None,
        }
        if let Some((low, high)) = text.split_once("..") {
            return Some(between(number(low)?, number(high)?));
        }
        if let Some((name, arguments)) = function(text) {
            let arguments: Option<Vec<_>> = arguments.split(',').map(number).collect();
            return match (name.as_str(), &arguments?[..]) {
                ("just", [n]) => Some(just(*n)),
                ("atleast", [n]) => Some(at_least(*n)),
                ("atmost", [n]) => Some(at_most(*n)),
                ("between", [low, high]) => Some(between(*low, *high)),
                _ => None,
            };
        }
        number(text).map(just)
    }
}

/// `at_least(x)` and `@atleast(x)` as `atleast` and `x`.
pub(crate) fn function(text: &str) -> Option<(String, &str)> {
    let (name, rest) = text.trim().split_once('(')?;
    let name = name.trim().trim_start_matches('@').replace('_', "");
    Some((name.to_ascii_lowercase(), rest.trim().strip_suffix(')')?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn suffixes_mean_what_the_unit_says() {
        assert_eq!(Unit::BinaryBytes.parse("512G"), Some(512.gib()));
        assert_eq!(Unit::BinaryBytes.parse("1.5 TiB"), Some(1.5.tib()));
        assert_eq!(Unit::BinaryBytes.parse("1GB"), Some(1e9));
        assert_eq!(Unit::DecimalBytes.parse("7.5T"), Some(7.5e12));
        assert_eq!(Unit::BitsPerSecond.parse("100Gbps"), Some(1e11));
        assert_eq!(Unit::Dollars.parse("$1.25"), Some(1.25));
        for wrong in ["", "G", "4X", "4GG", "-1", "4 G G", "1.2.3", "nan", "inf"] {
            assert_eq!(Unit::BinaryBytes.parse(wrong), None, "{wrong}");
        }
        assert_eq!(Unit::Dollars.parse("1G"), None);
        assert_eq!(
            Unit::Count.parse(&"9".repeat(400)),
            None,
            "not a number any more"
        );
        assert!(!at_most(f64::INFINITY).is_possible() && !just(f64::NAN).is_possible());
    }

    #[test]
    fn quantities_are_read_in_every_form() {
        let parse = |text| Quantity::parse("=", text, Unit::Count);
        assert_eq!(parse("4"), Some(just(4)));
        assert_eq!(parse(">= 4"), Some(at_least(4)));
        assert_eq!(parse("@atleast(4)"), Some(at_least(4)));
        assert_eq!(parse("at_most(4)"), Some(at_most(4)));
        assert_eq!(parse("4..8"), Some(between(4, 8)));
        assert_eq!(parse("between(4, 8)"), Some(between(4, 8)));
        assert_eq!(Quantity::parse(">=", "4", Unit::Count), Some(at_least(4)));
        for wrong in [
            "> 4",
            "at_least 4",
            "between(4)",
            "4..",
            "many(4)",
            ">= >= 4",
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
        assert!(!between(8, 4).is_possible() && !at_most(-1).is_possible());
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read(number in 0_u64..1 << 52, kind in 0..5, form in 0..4) {
            let unit = [Unit::Count, Unit::BinaryBytes, Unit::DecimalBytes, Unit::BitsPerSecond,
                Unit::Dollars][kind as usize];
            let quantity = [just(number), at_least(number), at_most(number),
                between(number, number + 1)][form as usize];
            let text = Printed(quantity, unit).to_string();
            prop_assert_eq!(Quantity::parse("", &text, unit), Some(quantity), "{}", text);
        }
    }
}
