//! Made-up weather for the `csv` example: a file per city, the same in every run.

use std::path::PathBuf;

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

/// Cities with their mean temperature and half the difference between summer and winter, in °C.
const CITIES: [(&str, f64, f64); 24] = [
    ("athens", 18.5, 10.0),
    ("auckland", 15.5, -5.0),
    ("bergen", 8.0, 7.0),
    ("bogota", 13.5, 0.5),
    ("cairo", 22.0, 8.0),
    ("cape-town", 17.0, -4.5),
    ("chicago", 10.5, 14.0),
    ("dakar", 24.5, 3.5),
    ("delhi", 25.0, 10.0),
    ("fortaleza", 27.0, 0.5),
    ("helsinki", 6.0, 12.0),
    ("jakarta", 27.5, 0.5),
    ("la-paz", 8.5, -2.0),
    ("lima", 19.5, -3.5),
    ("lisbon", 17.5, 6.0),
    ("montreal", 7.0, 16.0),
    ("nairobi", 18.0, 1.5),
    ("perth", 18.5, -5.5),
    ("quito", 14.0, 0.5),
    ("reykjavik", 5.0, 6.0),
    ("seoul", 12.5, 14.0),
    ("sydney", 18.5, -5.0),
    ("tokyo", 16.0, 11.0),
    ("yakutsk", -8.0, 29.0),
];

/// Writes ten years of daily weather for each city into a new folder in the temporary directory.
pub(crate) fn make_up() -> anyhow::Result<PathBuf> {
    let folder = tempfile::Builder::new()
        .prefix("cloudclusters-csv-")
        .tempdir()?
        .keep();
    for (seed, (city, mean, swing)) in (0..).zip(CITIES) {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut writer = csv::Writer::from_path(folder.join(format!("{city}.csv")))?;
        writer.write_record(["date", "city", "temperature", "rain", "wind"])?;
        let mut anomaly = 0.0;
        for (day, date) in dates().enumerate() {
            // The warmest day is late in July, and today's weather is much like yesterday's.
            let season = ((day as f64 - 205.0) / 365.25 * std::f64::consts::TAU).cos();
            anomaly = 0.8 * anomaly + random.random_range(-2.0..2.0);
            let temperature = format!("{:.1}", mean + swing * season + anomaly);
            let rain = if random.random_bool(0.3) {
                25.0 * random.random::<f64>().powi(3)
            } else {
                0.0
            };
            // Now and then the anemometer is out of order.
            let wind = if random.random_bool(0.01) {
                String::new()
            } else {
                format!("{:.0}", random.random_range(2.0..40.0))
            };
            writer.write_record([&date, city, &temperature, &format!("{rain:.1}"), &wind])?;
        }
        writer.flush()?;
    }
    println!(
        "made up the weather of {} cities in {}",
        CITIES.len(),
        folder.display()
    );
    Ok(folder)
}

/// The days of the years 2015 to 2024.
fn dates() -> impl Iterator<Item = String> {
    (2015..2025).flat_map(|year| {
        (1..=12).flat_map(move |month| {
            let days = match month {
                2 if year % 4 == 0 => 29,
                2 => 28,
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            (1..=days).map(move |day| format!("{year}-{month:02}-{day:02}"))
        })
    })
}
