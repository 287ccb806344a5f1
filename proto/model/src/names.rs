//! Made-up names for what is given none: containers and services.

const ADJECTIVES: &[&str] = &[
    "agile", "amber", "ample", "balmy", "bold", "brave", "breezy", "brisk", "calm", "candid", "cheery", "civil",
    "clever", "cosmic", "cozy", "crisp", "daring", "deft", "dreamy", "eager", "earnest", "easy", "fair", "fancy",
    "fearless", "fleet", "fond", "frank", "fresh", "gentle", "gifted", "glad", "golden", "graceful", "grand", "handy",
    "hardy", "hearty", "honest", "humble", "jolly", "keen", "kind", "lively", "lucid", "lucky", "mellow", "merry",
    "mighty", "mild", "modest", "neat", "nimble", "noble", "patient", "placid", "playful", "polite", "proud", "quick",
    "quiet", "ready", "robust", "rosy", "serene", "sharp", "shiny", "sincere", "smooth", "snug", "sober", "sound",
    "spry", "steady", "stout", "sturdy", "subtle", "sunny", "swift", "tender", "tidy", "tranquil", "trusty", "upbeat",
    "valiant", "vivid", "warm", "wise", "witty", "zesty",
];

const SURNAMES: &[&str] = &[
    "abel",
    "ampere",
    "archimedes",
    "avogadro",
    "babbage",
    "banach",
    "becquerel",
    "bernoulli",
    "bohr",
    "boole",
    "born",
    "cantor",
    "carson",
    "cauchy",
    "chandra",
    "clarke",
    "copernicus",
    "coulomb",
    "curie",
    "dalton",
    "darwin",
    "descartes",
    "dijkstra",
    "dirac",
    "edison",
    "einstein",
    "erdos",
    "euclid",
    "euler",
    "faraday",
    "fermat",
    "fermi",
    "feynman",
    "fibonacci",
    "fourier",
    "franklin",
    "galileo",
    "galois",
    "gauss",
    "germain",
    "godel",
    "goodall",
    "hamilton",
    "hawking",
    "heisenberg",
    "herschel",
    "hertz",
    "hilbert",
    "hooke",
    "hopper",
    "hubble",
    "huygens",
    "hypatia",
    "jacobi",
    "joule",
    "kelvin",
    "kepler",
    "knuth",
    "kovalevskaya",
    "lagrange",
    "lamarr",
    "laplace",
    "lavoisier",
    "leibniz",
    "linnaeus",
    "lovelace",
    "maxwell",
    "meitner",
    "mendel",
    "mendeleev",
    "napier",
    "newton",
    "nobel",
    "noether",
    "ohm",
    "pascal",
    "pasteur",
    "pauli",
    "planck",
    "poincare",
    "ptolemy",
    "ramanujan",
    "riemann",
    "rutherford",
    "sagan",
    "schrodinger",
    "shannon",
    "tesla",
    "turing",
    "volta",
    "watt",
    "weyl",
    "wiles",
    "wright",
];

/// The name that a number stands for: a caller that draws the number gets any of them equally likely.
pub fn from_number(number: u64) -> String {
    let of = |words: &[&'static str], n: u64| words[(n % words.len() as u64) as usize];
    format!("{}_{}", of(ADJECTIVES, number), of(SURNAMES, number / ADJECTIVES.len() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_pair_of_words_is_somebodys_name() {
        let all = (ADJECTIVES.len() * SURNAMES.len()) as u64;
        let names: BTreeSet<_> = (0..all).map(from_number).collect();
        assert_eq!(names.len() as u64, all);
        assert_eq!(from_number(all), from_number(0));
        assert!(from_number(u64::MAX).is_ascii());
    }
}
