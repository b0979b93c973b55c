//! Arithmetic in the documents is worked out again: `label: 2 × 30 = 60 seconds`.

use pitstop_rig::documents::in_language;

/// A number as people write it.
fn number(word: &str) -> Option<f64> {
    word.replace(',', "").parse().ok()
}

/// From left to right, products first.
fn worked_out(expression: &str) -> Option<f64> {
    let mut sum = 0.0;
    for (sign, product) in signed(expression) {
        let (mut value, mut divide) = (None, false);
        for word in product.split_whitespace() {
            match (word, value) {
                ("×", _) => divide = false,
                ("/", _) => divide = true,
                // What a number counts stands behind it.
                (word, _) if number(word).is_none() => {}
                (word, None) => value = number(word),
                (word, Some(so_far)) => {
                    let factor = number(word)?;
                    value = Some(if divide { so_far / factor } else { so_far * factor });
                }
            }
        }
        sum += sign * value?;
    }
    Some(sum)
}

fn signed(expression: &str) -> Vec<(f64, String)> {
    let mut terms = vec![(1.0, String::new())];
    for word in expression.split_whitespace() {
        match word {
            "+" => terms.push((1.0, String::new())),
            "−" => terms.push((-1.0, String::new())),
            word => terms.last_mut().unwrap().1 += &format!("{word} "),
        }
    }
    terms
}

/// Whether it is the stated number, rounded as that is.
fn agrees(worked_out: f64, stated: &str) -> bool {
    let decimals = stated.split_once('.').map_or(0, |(_, decimals)| decimals.len());
    let half = 0.5 * 0.1_f64.powi(i32::try_from(decimals).unwrap());
    number(stated).is_some_and(|stated| (stated - worked_out).abs() <= half * 1.000_001)
}

#[test]
fn every_sum_in_the_documents_is_right() {
    let mut checked = 0;
    for block in in_language("text").iter().filter(|block| block.what == "sums") {
        for line in block.text.lines().filter(|line| line.contains(" = ")) {
            let (sum, result) = line.split_once(" = ").unwrap();
            let expression = sum.rsplit_once(": ").map_or(sum, |(_, expression)| expression);
            let stated = result.split_whitespace().map(|word| word.trim_start_matches('$')).next().unwrap();
            let value = worked_out(&expression.replace('$', "")).unwrap_or_else(|| panic!("{line}"));
            assert!(agrees(value, stated), "{}: {line}: it is {value}", block.place);
            checked += 1;
        }
    }
    assert!(checked >= 8, "{checked}");
}

#[test]
fn a_wrong_sum_is_found() {
    assert_eq!(worked_out("2 × 30 / 4 + 1"), Some(16.0));
    assert!(agrees(16.04, "16.0") && agrees(86_400.0, "86,400"));
    assert!(!agrees(16.1, "16.0") && !agrees(1.0, "2"));
}
