//! Charts, drawn on the server as SVG. Colours have the same contrast on a light and on a dark page, and what
//! they stand for is always said in words too: give every chart its sentence and, where hues tell things apart,
//! a [`legend`]. Ends of an axis stand below a chart as text, with times by `parts::time`.

use maud::{Markup, PreEscaped, html};
use plotters::coord::Shift;
use plotters::drawing::DrawingAreaErrorKind;
use plotters::prelude::{
    Color, DrawingArea, IntoDrawingArea, PathElement, Polygon, RGBColor, Rectangle, SVGBackend,
};
use time::OffsetDateTime;

/// Size of a drawing in its own units; style sheets stretch it.
const SPARKLINE: (u32, u32) = (240, 40);
/// A day has a unit for each minute.
const STRIP: (u32, u32) = (1440, 40);
const BARS: (u32, u32) = (720, 120);
/// Distance of the lines that shade a part of a strip.
const SHADE_EVERY: usize = 5;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

/// A colour that tells parts of a chart apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hue {
    Green,
    Blue,
    Amber,
    Red,
    Purple,
    Teal,
    Pink,
    Gray,
}

impl Hue {
    const fn color(self) -> RGBColor {
        match self {
            Self::Green => RGBColor(0x1f, 0x9d, 0x57),
            Self::Blue => RGBColor(0x3b, 0x82, 0xf6),
            Self::Amber => RGBColor(0xc2, 0x7c, 0x0e),
            Self::Red => RGBColor(0xe5, 0x48, 0x4d),
            Self::Purple => RGBColor(0x8e, 0x5b, 0xe8),
            Self::Teal => RGBColor(0x0e, 0x94, 0xa0),
            Self::Pink => RGBColor(0xd9, 0x46, 0x8f),
            Self::Gray => RGBColor(0x7d, 0x86, 0x94),
        }
    }
}

/// What the hues of a chart stand for.
pub fn legend(entries: &[(Hue, &str)]) -> Markup {
    html! {
        ul.legend { @for (hue, word) in entries { li { (swatch(*hue)) (word) } } }
    }
}

/// A dot of a hue, to stand before its word.
pub fn swatch(hue: Hue) -> Markup {
    let RGBColor(red, green, blue) = hue.color();
    let fill = format!("#{red:02x}{green:02x}{blue:02x}");
    html! { svg.swatch viewBox="0 0 10 10" aria-hidden="true" { circle cx="5" cy="5" r="5" fill=(fill) {} } }
}

/// A line of figures from the oldest to the newest, from zero up. `says` is its text.
pub fn sparkline(values: &[u64], says: &str) -> Markup {
    let (width, height) = SPARKLINE;
    let highest = values.iter().copied().max().unwrap_or(0).max(1);
    let last = u64::try_from(values.len().saturating_sub(1)).unwrap_or(u64::MAX).max(1);
    let line: Vec<(i32, i32)> = (0_u64..)
        .zip(values)
        .map(|(at, value)| (scaled(at, last, width), flip(scaled(*value, highest, height - 2), height - 1)))
        .collect();
    drawn("chart sparkline", SPARKLINE, says, |area| {
        let (Some(first), Some(end)) = (line.first(), line.last()) else { return Ok(()) };
        let ground = flip(0, height);
        let below = [line.as_slice(), &[(end.0, ground), (first.0, ground)]].concat();
        area.draw(&Polygon::new(below, Hue::Blue.color().mix(0.2).filled()))?;
        area.draw(&PathElement::new(line.clone(), Hue::Blue.color().stroke_width(2)))
    })
}

/// A part of a [`strip`].
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    pub from: OffsetDateTime,
    pub to: OffsetDateTime,
    pub hue: Hue,
}

/// What was the case from one moment to another, as a strip of segments; `shaded` are spans that nobody could
/// see into. What reaches out of the strip is cut off. `says` is its text.
pub fn strip(
    (from, to): (OffsetDateTime, OffsetDateTime),
    segments: &[Segment],
    shaded: &[(OffsetDateTime, OffsetDateTime)],
    says: &str,
) -> Markup {
    let (width, height) = STRIP;
    let bottom = flip(0, height);
    let x = |at: OffsetDateTime| {
        let milliseconds = |span: time::Duration| u64::try_from(span.whole_milliseconds()).unwrap_or(0);
        scaled(milliseconds(at.clamp(from, to) - from), milliseconds(to - from).max(1), width)
    };
    drawn("chart strip", STRIP, says, |area| {
        for segment in segments.iter().filter(|segment| segment.from < to && segment.to > from) {
            // What was short is seen too.
            let (start, end) = (x(segment.from), x(segment.to).max(x(segment.from) + 1));
            area.draw(&Rectangle::new([(start, 0), (end, bottom)], segment.hue.color().filled()))?;
        }
        for (start, end) in shaded.iter().filter(|(start, end)| *start < to && *end > from) {
            let (start, end) = (x(*start), x(*end).max(x(*start) + 1));
            area.draw(&Rectangle::new([(start, 0), (end, bottom)], Hue::Gray.color().mix(0.35).filled()))?;
            for at in (start..=end).step_by(SHADE_EVERY) {
                area.draw(&PathElement::new([(at, 0), (at, bottom)], Hue::Red.color().stroke_width(2)))?;
            }
        }
        Ok(())
    })
}

/// Columns of stacked figures from the oldest to the newest, the first part of each at the bottom. `says` is
/// its text.
pub fn bars(columns: &[Vec<(Hue, u64)>], says: &str) -> Markup {
    let (width, height) = BARS;
    let sum = |column: &Vec<(Hue, u64)>| column.iter().map(|(_, value)| value).sum::<u64>();
    let highest = columns.iter().map(sum).max().unwrap_or(0).max(1);
    let count = u64::try_from(columns.len()).unwrap_or(u64::MAX).max(1);
    drawn("chart bars", BARS, says, |area| {
        for (at, column) in (0_u64..).zip(columns) {
            let (left, right) = (scaled(at, count, width), scaled(at + 1, count, width));
            let right = if right - left > 3 { right - 1 } else { right };
            let mut below = 0;
            for (hue, value) in column.iter().filter(|(_, value)| *value > 0) {
                let bottom = flip(scaled(below, highest, height), height);
                below += value;
                // One among thousands is seen too.
                let top = flip(scaled(below, highest, height), height).min(bottom - 1);
                area.draw(&Rectangle::new([(left, top), (right, bottom)], hue.color().filled()))?;
            }
        }
        Ok(())
    })
}

/// `value` of `whole` parts on an axis of this length.
fn scaled(value: u64, whole: u64, length: u32) -> i32 {
    let place = u128::from(value) * u128::from(length) / u128::from(whole.max(1));
    i32::try_from(place).unwrap_or(i32::MAX)
}

/// SVG counts from the top.
fn flip(y: i32, height: u32) -> i32 {
    i32::try_from(height).unwrap_or(i32::MAX) - y
}

/// Draws inside an element of our own: plotters' one has a fixed size and no text.
fn drawn(
    class: &str,
    (width, height): (u32, u32),
    says: &str,
    draw: impl FnOnce(&Area<'_>) -> Drawn,
) -> Markup {
    let mut whole = String::new();
    {
        let area = SVGBackend::with_string(&mut whole, (width, height)).into_drawing_area();
        // Nothing fails that draws into a String; an empty chart would still have its text.
        let _ = draw(&area).and_then(|()| area.present());
    }
    let inside =
        whole.split_once('>').and_then(|(_, rest)| rest.rsplit_once("</svg>")).map(|(inside, _)| inside);
    html! {
        svg class=(class) role="img" viewBox={ "0 0 " (width) " " (height) } preserveAspectRatio="none" {
            title { (says) }
            (PreEscaped(inside.unwrap_or_default()))
        }
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    /// Cards of the light and the dark theme, as console.css has them.
    const BACKGROUNDS: [RGBColor; 2] = [RGBColor(0xff, 0xff, 0xff), RGBColor(0x18, 0x1d, 0x26)];

    fn luminance(color: RGBColor) -> f64 {
        let part = |value: u8| {
            let value = f64::from(value) / 255.0;
            if value <= 0.03928 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
        };
        0.2126 * part(color.0) + 0.7152 * part(color.1) + 0.0722 * part(color.2)
    }

    #[test]
    fn every_hue_stands_out_in_both_themes() {
        use Hue::*;
        for hue in [Green, Blue, Amber, Red, Purple, Teal, Pink, Gray] {
            for background in BACKGROUNDS {
                let (one, other) = (luminance(hue.color()), luminance(background));
                let contrast = (one.max(other) + 0.05) / (one.min(other) + 0.05);
                assert!(contrast >= 3.0, "{hue:?} on {background:?}: {contrast}");
            }
        }
    }

    #[test]
    fn charts_hold_nothing_that_the_content_policy_forbids_and_say_what_they_show() {
        let noon = datetime!(2026-11-30 12:00 UTC);
        let segment = Segment { from: noon, to: noon, hue: Hue::Green };
        let charts = [
            sparkline(&[], "a & b"),
            sparkline(&[0, u64::MAX, 3], "a & b"),
            strip((noon, noon + time::Duration::DAY), &[segment], &[(noon, noon)], "a & b"),
            bars(&[vec![(Hue::Green, 1_000_000), (Hue::Red, 1)], Vec::new()], "a & b"),
        ];
        for chart in charts {
            let chart = chart.into_string();
            assert!(!chart.contains("style=") && !chart.contains(" on"), "{chart}");
            assert!(chart.contains("<title>a &amp; b</title>"), "{chart}");
            assert_eq!(chart.matches("<svg").count(), 1, "{chart}");
            assert!(chart.ends_with("</svg>"), "{chart}");
        }
    }

    #[test]
    fn what_is_small_is_drawn_too_and_what_is_outside_is_not() {
        let day = (datetime!(2026-11-30 0:00 UTC), datetime!(2026-12-01 0:00 UTC));
        let second = time::Duration::SECOND;
        let short = Segment { from: day.0, to: day.0 + second, hue: Hue::Green };
        let before = Segment { from: day.0 - second, to: day.0, hue: Hue::Red };
        let strip = strip(day, &[short, before], &[], "").into_string();
        assert_eq!(strip.matches("<rect").count(), 1, "{strip}");
        let bars = bars(&[vec![(Hue::Green, 1_000_000), (Hue::Red, 1)]], "").into_string();
        assert_eq!(bars.matches("<rect").count(), 2, "{bars}");
        assert!(!bars.contains("height=\"0\""), "{bars}");
    }
}
