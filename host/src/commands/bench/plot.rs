//! Bars as SVG: a row for each thing measured, with its parts one after the other and a dot for each
//! single measurement. Written by hand, since it is a page of text with some numbers in it.

use std::fmt::Write as _;

/// One bar.
#[derive(Clone, Debug, Default)]
pub struct Row {
    /// What was measured.
    pub label: String,
    /// Its parts: name and length. One part without a name is a plain bar.
    pub parts: Vec<(String, f64)>,
    /// Single measurements.
    pub dots: Vec<f64>,
    /// A limit that it is to keep.
    pub limit: Option<f64>,
}

/// A plot.
#[derive(Clone, Debug)]
pub struct Plot {
    /// What it shows.
    pub title: String,
    /// Under what circumstances.
    pub subtitle: String,
    /// Unit of every number.
    pub unit: &'static str,
    /// The bars, from the top.
    pub rows: Vec<Row>,
}

/// Colours that are told apart in print and by the colour-blind: Okabe and Ito's, then more for plots with many parts.
const COLOURS: [&str; 11] = [
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#999999",
    "#882255", "#332288", "#44aa99",
];
const INK: &str = "#222222";
const LIMIT: &str = "#b00020";

/// Measures of the page, in its own units (pixels when shown at full size).
const WIDTH: f64 = 1040.0;
const LEFT: f64 = 270.0;
/// Letters of a label that find room on the left; of a longer one, as a command line can be, the begin is shown.
const LABEL: usize = 40;
const RIGHT: f64 = 110.0;
const TOP: f64 = 76.0;
const ROW: f64 = 44.0;
const BAR: f64 = 22.0;
const LEGEND: f64 = 22.0;
const AXIS: f64 = 40.0;
/// Width of a letter of the text's size, about: enough to place a legend.
const LETTER: f64 = 7.0;

impl Plot {
    /// The SVG file.
    #[must_use]
    pub fn svg(&self) -> String {
        let names = self.part_names();
        let bars_end = TOP + ROW * length(&self.rows);
        let legend = legend(&names);
        let height = bars_end + AXIS + LEGEND * length(&legend);
        let axis = Axis::up_to(self.rows.iter().map(Row::extent).fold(0.0, f64::max));
        let mut svg = String::new();
        let mut line = |text: String| {
            svg.push_str(&text);
            svg.push('\n');
        };
        line(format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" font-family="sans-serif" font-size="13" fill="{INK}">"#
        ));
        line(format!(r##"<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>"##));
        line(text(16.0, 28.0, "start", 18, &self.title));
        line(text(16.0, 50.0, "start", 13, &self.subtitle));
        axis.ticks().for_each(|tick| line(axis.tick(tick, bars_end, self.unit)));
        let mut top = TOP;
        for row in &self.rows {
            line(row.draw(&axis, &names, top, self.unit));
            top += ROW;
        }
        let mut y = bars_end + AXIS + 4.0;
        for entries in &legend {
            line(legend_line(entries, y));
            y += LEGEND;
        }
        line("</svg>".into());
        svg
    }

    /// The names of all parts, in the order in which they first come.
    fn part_names(&self) -> Vec<&str> {
        let mut names = Vec::new();
        for (name, _) in self.rows.iter().flat_map(|row| &row.parts) {
            if !name.is_empty() && !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
        names
    }
}

impl Row {
    fn sum(&self) -> f64 {
        self.parts.iter().map(|(_, value)| value).sum()
    }

    /// How far to the right anything of it goes.
    fn extent(&self) -> f64 {
        let dots = self.dots.iter().copied().fold(0.0, f64::max);
        self.sum().max(dots).max(self.limit.unwrap_or(0.0))
    }

    fn draw(&self, axis: &Axis, names: &[&str], top: f64, unit: &str) -> String {
        let mut svg = text(LEFT - 10.0, top + 16.0, "end", 13, &shortened(&self.label));
        let mut from = 0.0;
        for (name, value) in &self.parts {
            let colour = names.iter().position(|other| other == name).unwrap_or(0);
            let colour = COLOURS.get(colour % COLOURS.len()).unwrap_or(&INK);
            let (start, end) = (axis.x(from), axis.x(from + value));
            write!(
                svg,
                r#"<rect x="{start:.1}" y="{top:.1}" width="{:.1}" height="{BAR}" fill="{colour}"><title>{} {}</title></rect>"#,
                end - start,
                escape(name),
                number(*value, unit),
            )
            .ok();
            from += value;
        }
        for dot in &self.dots {
            let (x, y) = (axis.x(*dot), top + BAR + 5.0);
            write!(svg, r#"<circle cx="{x:.1}" cy="{y:.1}" r="2.5" fill-opacity="0.6"/>"#).ok();
        }
        if let Some(limit) = self.limit {
            let (x, bottom) = (axis.x(limit), top + BAR + 8.0);
            write!(
                svg,
                r#"<path d="M{x:.1} {:.1}V{bottom:.1}" stroke="{LIMIT}" stroke-width="2"><title>limit {}</title></path>"#,
                top - 4.0,
                number(limit, unit),
            )
            .ok();
        }
        let after = axis.x(self.extent()) + 8.0;
        svg.push_str(&text(after, top + 16.0, "start", 13, &number(self.sum(), unit)));
        svg
    }
}

fn shortened(label: &str) -> String {
    match label.char_indices().nth(LABEL) {
        None => label.to_owned(),
        Some(_) => label.chars().take(LABEL - 1).chain(['…']).collect(),
    }
}

/// The scale from left to right, from zero.
struct Axis {
    step: f64,
    steps: u32,
}

impl Axis {
    /// With ticks at 1, 2 or 5 times a power of ten, four to ten of them.
    fn up_to(largest: f64) -> Self {
        let rough = (largest / 8.0).max(f64::MIN_POSITIVE);
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|times| times * power);
        let step = step.into_iter().find(|step| *step >= rough).unwrap_or(rough);
        let steps = (1..=10).find(|steps| f64::from(*steps) * step >= largest).unwrap_or(10);
        Self { step, steps }
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        let step = self.step;
        (0..=self.steps).map(move |index| f64::from(index) * step)
    }

    fn x(&self, value: f64) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * value / (self.step * f64::from(self.steps))
    }

    fn tick(&self, value: f64, bottom: f64, unit: &str) -> String {
        let x = self.x(value);
        let line =
            format!(r##"<path d="M{x:.1} {:.1}V{bottom:.1}" stroke="#dddddd"/>"##, TOP - 10.0);
        line + &text(x, bottom + 18.0, "middle", 12, &number(value, unit))
    }
}

/// A part in the legend.
struct Entry<'a> {
    name: &'a str,
    colour: &'a str,
    x: f64,
}

/// The lines of the legend: none is wider than the plot.
fn legend<'a>(names: &[&'a str]) -> Vec<Vec<Entry<'a>>> {
    let mut lines: Vec<Vec<Entry<'a>>> = Vec::new();
    let mut x = LEFT;
    for (name, colour) in names.iter().zip(COLOURS.into_iter().cycle()) {
        let width = 36.0 + LETTER * length(&name.chars().collect::<Vec<_>>());
        if lines.is_empty() || x + width > WIDTH {
            lines.push(Vec::new());
            x = LEFT;
        }
        if let Some(line) = lines.last_mut() {
            line.push(Entry { name, colour, x });
        }
        x += width;
    }
    lines
}

fn legend_line(entries: &[Entry<'_>], y: f64) -> String {
    let mut svg = String::new();
    for Entry { name, colour, x } in entries {
        let top = y - 10.0;
        // Writing to a string can't fail.
        write!(svg, r#"<rect x="{x:.1}" y="{top:.1}" width="12" height="12" fill="{colour}"/>"#)
            .ok();
        svg.push_str(&text(x + 17.0, y, "start", 12, name));
    }
    svg
}

fn text(x: f64, y: f64, anchor: &str, size: u8, text: &str) -> String {
    format!(
        r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" font-size="{size}">{}</text>"#,
        escape(text)
    )
}

/// Three digits, no more zeros than needed.
fn number(value: f64, unit: &str) -> String {
    let digits = match value {
        value if value >= 100.0 || value == 0.0 => 0,
        value if value >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.digits$} {unit}")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[expect(clippy::cast_precision_loss, reason = "there are never 2^53 rows or letters")]
fn length<T>(items: &[T]) -> f64 {
    items.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(label: &str, parts: &[(&str, f64)]) -> Row {
        let parts = parts.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        Row { label: label.into(), parts, ..Row::default() }
    }

    #[test]
    fn axes_end_at_a_round_number_beyond_the_largest_value() {
        for largest in [0.0, 0.004, 1.0, 8.3, 17.0, 82.0, 999.0, 123_456.0] {
            let axis = Axis::up_to(largest);
            let end = axis.ticks().last().unwrap();
            assert!(end >= largest, "{largest}: {end}");
            assert!((1..=10).contains(&axis.steps), "{largest}: {}", axis.steps);
        }
    }

    #[test]
    fn a_legend_that_is_too_wide_goes_on_below() {
        let names = ["process start", "start message read", "KVM ready", "kernel loaded"].repeat(3);
        let lines = legend(&names);
        assert!(lines.len() > 1);
        assert_eq!(lines.iter().map(Vec::len).sum::<usize>(), names.len());
        for entry in lines.iter().flatten() {
            assert!(entry.x + 36.0 + LETTER * length(entry.name.as_bytes()) <= WIDTH);
        }
        assert!(legend(&[]).is_empty());
    }

    #[test]
    fn a_plot_names_every_row_and_part_once_in_its_legend() {
        let rows = vec![row("a<b", &[("kernel", 3.0), ("init", 4.0)]), row("c", &[("init", 1.0)])];
        let plot = Plot { title: "t & u".into(), subtitle: String::new(), unit: "ms", rows };
        let svg = plot.svg();
        assert!(svg.contains("a&lt;b") && svg.contains("t &amp; u") && svg.contains("7.00 ms"));
        assert_eq!(svg.matches(">init</text>").count(), 1);
        assert!(svg.trim_end().ends_with("</svg>"));
    }

    #[test]
    fn a_long_label_is_shortened() {
        assert_eq!(shortened("boot: process start (fork, exec, main)").chars().count(), 38);
        let long = shortened(&"é".repeat(100));
        assert!(long.chars().count() == LABEL && long.ends_with("é…"), "{long}");
    }

    #[test]
    fn numbers_have_three_digits() {
        let of = |value| number(value, "ms");
        assert_eq!([of(0.0), of(0.123), of(1.0)], ["0 ms", "0.12 ms", "1.00 ms"]);
        assert_eq!([of(12.34), of(456.7)], ["12.3 ms", "457 ms"]);
    }
}
