//! JSON as Python's objects, made straight from bytes.
//!
//! It reads what is plain: of each number, text and nesting that readers of JSON do not all read alike it says that it is in doubt.
//! That is left to Python's own readers, so that what such a document means, or what is wrong with it, is decided in one place.
//! It writes nothing, and knows no messages.
//!
//! Invariant: what it reads is what `json.loads` and `orjson.loads` read.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyDict, PyFloat, PyInt, PyList, PyString};

/// Lists and objects in one another. Beyond, Python says whether that is too deep.
const DEPTH_MAX: usize = 64;
/// Texts that are remembered, since keys come again and again: a power of two. One that has the place of another takes it.
const TEXTS: usize = 512;
/// Longer texts are not remembered.
const TEXT_BYTES_MAX: usize = 24;
/// As many digits of any kind fit an `i64`.
const DIGITS: usize = 18;

/// Texts that came before. Those of the process, as long as nobody else uses them.
static TEXTS_OF_ALL: Mutex<Option<Texts>> = Mutex::new(None);

/// A short text as numbers, which are compared in no time: its bytes, and how many they are.
type Short = ([u64; TEXT_BYTES_MAX / 8], usize);

/// One that came before.
type Known = (Short, Py<PyString>);

/// Short texts that came before, each at the place that its bytes say.
pub(crate) struct Texts(Box<[Option<Known>]>);

impl Texts {
    /// Those of the process; where another call has them, which goes on below this one, none.
    pub(crate) fn take() -> Self {
        let all = TEXTS_OF_ALL.lock().unwrap_or_else(PoisonError::into_inner).take();
        all.unwrap_or_else(|| Self(std::iter::repeat_with(|| None).take(TEXTS).collect()))
    }

    /// For the next call.
    pub(crate) fn put_back(self) {
        *TEXTS_OF_ALL.lock().unwrap_or_else(PoisonError::into_inner) = Some(self);
    }

    /// The text of a part of these bytes; `None` where it is none.
    fn of<'py>(&mut self, py: Python<'py>, all: &[u8], part: Range<usize>) -> Option<Bound<'py, PyString>> {
        let bytes = &all[part.clone()];
        if bytes.len() > TEXT_BYTES_MAX {
            return Some(PyString::new(py, std::str::from_utf8(bytes).ok()?));
        }
        let short = short(all, part);
        let place = &mut self.0[place_of(&short)];
        if let Some((known, text)) = place
            && *known == short
        {
            return Some(text.bind(py).clone());
        }
        let text = PyString::new(py, std::str::from_utf8(bytes).ok()?);
        *place = Some((short, text.clone().unbind()));
        Some(text)
    }
}

/// A short part of these bytes as numbers.
fn short(all: &[u8], part: Range<usize>) -> Short {
    let mut words = [0; TEXT_BYTES_MAX / 8];
    let len = part.len();
    for (word, start) in words.iter_mut().zip(part.clone().step_by(8)) {
        let used = (part.end - start).min(8);
        let read = match all.get(start..start + 8).and_then(|bytes| bytes.try_into().ok()) {
            Some(bytes) => u64::from_le_bytes(bytes),
            None => all[start..part.end].iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)),
        };
        *word = read & (u64::MAX >> (64 - 8 * used));
    }
    (words, len)
}

/// Where a text is remembered.
fn place_of((words, len): &Short) -> usize {
    const MIX: u64 = 0x9e37_79b9_7f4a_7c15;
    let mixed =
        words.iter().fold(*len as u64, |mixed, word| (mixed ^ word).wrapping_mul(MIX).rotate_left(26));
    (mixed as usize) % TEXTS
}

/// A message of `message_bus`: an object that says its topic.
pub(crate) struct Envelope<'a, 'py> {
    pub(crate) message: Bound<'py, PyAny>,
    /// The topic as it is written, and as it is.
    pub(crate) written: &'a [u8],
    pub(crate) topic: Bound<'py, PyAny>,
}

/// The value that bytes hold as JSON, or the words of Python for "not by me".
#[pyfunction]
pub(crate) fn _parsed(data: &Bound<'_, PyBytes>) -> Py<PyAny> {
    let py = data.py();
    let mut texts = Texts::take();
    let value = Reader::new(py, data.as_bytes(), &mut texts).document();
    texts.put_back();
    value.map_or_else(|| py.NotImplemented(), Bound::unbind)
}

/// Reads one document. Whatever it returns `None` for is left to others.
pub(crate) struct Reader<'a, 'py> {
    py: Python<'py>,
    bytes: &'a [u8],
    at: usize,
    texts: &'a mut Texts,
    /// The outermost object's topic.
    topic: Option<(&'a [u8], Bound<'py, PyAny>)>,
    /// A key of the outermost object is written with escapes: it may be the topic.
    is_odd: bool,
}

impl<'a, 'py> Reader<'a, 'py> {
    pub(crate) fn new(py: Python<'py>, bytes: &'a [u8], texts: &'a mut Texts) -> Self {
        Self { py, bytes, at: 0, texts, topic: None, is_odd: false }
    }

    /// What it holds.
    pub(crate) fn document(&mut self) -> Option<Bound<'py, PyAny>> {
        let value = self.value(0)?;
        // Nothing but white space follows.
        self.next().is_none().then_some(value)
    }

    /// A message, if that is what it holds.
    pub(crate) fn envelope(mut self) -> Option<Envelope<'a, 'py>> {
        let message = self.document()?;
        let (written, topic) = self.topic.filter(|_| !self.is_odd)?;
        topic.is_instance_of::<PyString>().then_some(Envelope { message, written, topic })
    }

    /// The next byte that is no white space; it stays there.
    fn next(&mut self) -> Option<u8> {
        loop {
            let byte = *self.bytes.get(self.at)?;
            if !matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
                return Some(byte);
            }
            self.at += 1;
        }
    }

    fn value(&mut self, depth: usize) -> Option<Bound<'py, PyAny>> {
        match self.next()? {
            b'"' => {
                let text = self.text()?;
                self.shown(text)
            }
            b'{' => self.object(depth),
            b'[' => self.list(depth),
            b'-' | b'0'..=b'9' => self.number(),
            b't' => self.word(b"true", PyBool::new(self.py, true).to_owned().into_any()),
            b'f' => self.word(b"false", PyBool::new(self.py, false).to_owned().into_any()),
            b'n' => self.word(b"null", self.py.None().into_bound(self.py)),
            _ => None,
        }
    }

    fn word(&mut self, word: &[u8], value: Bound<'py, PyAny>) -> Option<Bound<'py, PyAny>> {
        self.bytes[self.at..].starts_with(word).then(|| self.at += word.len())?;
        Some(value)
    }

    fn object(&mut self, depth: usize) -> Option<Bound<'py, PyAny>> {
        let object = PyDict::new(self.py);
        self.at += 1;
        if depth >= DEPTH_MAX {
            return None;
        }
        if self.next()? == b'}' {
            self.at += 1;
            return Some(object.into_any());
        }
        loop {
            if self.next()? != b'"' {
                return None;
            }
            let key = match self.text()? {
                Text::Plain(part) => {
                    let key = self.texts.of(self.py, self.bytes, part.clone())?;
                    self.colon()?;
                    self.next()?;
                    let start = self.at;
                    let value = self.value(depth + 1)?;
                    object.set_item(&key, &value).ok()?;
                    if depth == 0 && self.bytes[part] == *b"topic" {
                        self.topic = Some((&self.bytes[start..self.at], value));
                    }
                    None
                }
                Text::Escaped(text) => {
                    self.is_odd |= depth == 0;
                    Some(text)
                }
            };
            if let Some(key) = key {
                self.colon()?;
                let value = self.value(depth + 1)?;
                object.set_item(key, value).ok()?;
            }
            if self.ends(b'}')? {
                return Some(object.into_any());
            }
        }
    }

    fn colon(&mut self) -> Option<()> {
        (self.next()? == b':').then(|| self.at += 1)
    }

    /// Whether a list or an object ends here, or has a comma.
    fn ends(&mut self, end: u8) -> Option<bool> {
        let byte = self.next()?;
        self.at += 1;
        if byte == end { Some(true) } else { (byte == b',').then_some(false) }
    }

    fn list(&mut self, depth: usize) -> Option<Bound<'py, PyAny>> {
        let list = PyList::empty(self.py);
        self.at += 1;
        if depth >= DEPTH_MAX {
            return None;
        }
        if self.next()? == b']' {
            self.at += 1;
            return Some(list.into_any());
        }
        loop {
            list.append(self.value(depth + 1)?).ok()?;
            if self.ends(b']')? {
                return Some(list.into_any());
            }
        }
    }

    /// A text, of which the first quote is next.
    fn text(&mut self) -> Option<Text> {
        let start = self.at + 1;
        let end = plain(self.bytes, start);
        match self.bytes.get(end)? {
            b'"' => {
                self.at = end + 1;
                Some(Text::Plain(start..end))
            }
            b'\\' => self.escaped(start, end),
            _ => None,
        }
    }

    /// A text of which the first escape is at `end`.
    #[cold]
    fn escaped(&mut self, mut start: usize, mut end: usize) -> Option<Text> {
        let mut text = String::new();
        loop {
            text.push_str(std::str::from_utf8(&self.bytes[start..end]).ok()?);
            self.at = end + 1;
            match self.bytes.get(end)? {
                b'"' => return Some(Text::Escaped(text)),
                b'\\' => text.push(self.escape()?),
                _ => return None,
            }
            start = self.at;
            end = plain(self.bytes, start);
        }
    }

    /// What follows a backslash.
    fn escape(&mut self) -> Option<char> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(match byte {
            b'"' | b'\\' | b'/' => char::from(byte),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let first = self.unit()?;
                if !(0xd800..0xdc00).contains(&first) {
                    // Half of a pair without the other: Python has texts of that, and others do not.
                    return char::from_u32(first);
                }
                let second = self.bytes.get(self.at..self.at + 2).filter(|bytes| *bytes == b"\\u")?;
                self.at += second.len();
                let second = self.unit()?;
                let low = (0xdc00..0xe000).contains(&second).then(|| second - 0xdc00)?;
                char::from_u32(0x1_0000 + ((first - 0xd800) << 10) + low)?
            }
            _ => return None,
        })
    }

    /// Four digits of base 16.
    fn unit(&mut self) -> Option<u32> {
        let digits = self.bytes.get(self.at..self.at + 4)?;
        self.at += 4;
        digits.iter().try_fold(0, |sum, digit| Some(sum * 16 + char::from(*digit).to_digit(16)?))
    }

    fn shown(&mut self, text: Text) -> Option<Bound<'py, PyAny>> {
        Some(match text {
            Text::Plain(part) => self.texts.of(self.py, self.bytes, part)?.into_any(),
            Text::Escaped(text) => PyString::new(self.py, &text).into_any(),
        })
    }

    fn digits(&mut self) -> usize {
        let start = self.at;
        while self.bytes.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
        self.at - start
    }

    fn number(&mut self) -> Option<Bound<'py, PyAny>> {
        let start = self.at;
        let is_negative = self.bytes[start] == b'-';
        self.at += usize::from(is_negative);
        let first = self.at;
        let digits = self.digits();
        // None, or one that begins with 0 and goes on.
        if digits == 0 || (digits > 1 && self.bytes[first] == b'0') {
            return None;
        }
        let is_float = matches!(self.bytes.get(self.at), Some(b'.' | b'e' | b'E'));
        if is_float {
            return self.float(start);
        }
        if is_negative && self.bytes[first] == b'0' {
            // Some read it as a number with a sign, and Python does not.
            return None;
        }
        if digits <= DIGITS {
            let fold = |sum: i64, digit: &u8| sum * 10 + i64::from(digit - b'0');
            let number = self.bytes[first..self.at].iter().fold(0, fold);
            return Some(int(self.py, if is_negative { -number } else { number }));
        }
        let written = std::str::from_utf8(&self.bytes[start..self.at]).ok()?;
        match written.parse::<i64>() {
            Ok(number) => Some(int(self.py, number)),
            Err(_) => {
                let Ok(number) = written.parse::<u64>().ok()?.into_pyobject(self.py);
                Some(number.into_any())
            }
        }
    }

    /// A number with a point or an exponent, which is next.
    fn float(&mut self, start: usize) -> Option<Bound<'py, PyAny>> {
        if self.bytes[self.at] == b'.' {
            self.at += 1;
            (self.digits() > 0).then_some(())?;
        }
        if matches!(self.bytes.get(self.at), Some(b'e' | b'E')) {
            self.at += 1;
            self.at += usize::from(matches!(self.bytes.get(self.at), Some(b'+' | b'-')));
            (self.digits() > 0).then_some(())?;
        }
        let written = std::str::from_utf8(&self.bytes[start..self.at]).ok()?;
        let number = written.parse::<f64>().ok()?;
        // Beyond what there is Python reads infinity.
        number.is_finite().then(|| PyFloat::new(self.py, number).into_any())
    }
}

fn int(py: Python<'_>, number: i64) -> Bound<'_, PyAny> {
    let Ok(number): Result<Bound<'_, PyInt>, std::convert::Infallible> = number.into_pyobject(py);
    number.into_any()
}

/// What stands between two quotes.
enum Text {
    /// As it is.
    Plain(Range<usize>),
    /// With escapes, which are no more.
    Escaped(String),
}

/// Where a run of bytes ends that are neither quotes nor escapes nor control characters.
fn plain(bytes: &[u8], mut at: usize) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word & HIGH;
    while let Some(part) = bytes.get(at..at + 8).and_then(|part| part.try_into().ok()) {
        let word = u64::from_le_bytes(part);
        let controls = word.wrapping_sub(ONES * 0x20) & !word & HIGH;
        let found =
            controls | zeros(word ^ (ONES * u64::from(b'"'))) | zeros(word ^ (ONES * u64::from(b'\\')));
        if found != 0 {
            // Of those that are found the first one is.
            return at + found.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    let rest = bytes.get(at..).unwrap_or_default();
    at + rest.iter().position(|byte| *byte < 0x20 || matches!(byte, b'"' | b'\\')).unwrap_or(rest.len())
}
