package llm

import (
	"github.com/tidwall/gjson"
)

// Usage is how many tokens an answer took, as the vendor reported it.
type Usage struct {
	Prompt, Completion int64
	// Reported is false if the answer said nothing.
	Reported bool
}

// maxUsage is the most bytes a usage object may have to be understood.
const maxUsage = 8 << 10

// Scanner finds the usage in an answer that is written to it in pieces of any size. It keeps no more of the answer than
// one usage object: the value of the key "usage" at the top of a JSON body or of an event's data, or one level down in
// "response". Of several, the last counts. The zero value scans a JSON body.
type Scanner struct {
	events bool
	line   lineState
	json   jsonState
	usage  Usage
}

type lineState uint8

const (
	lineStart lineState = 0 // up to 4: that many bytes of "data:" were read
	lineData  lineState = 5
	lineOther lineState = 6
)

// NewEventScanner returns a scanner of an event stream.
func NewEventScanner() Scanner { return Scanner{events: true} }

// Write takes the next piece. It never fails.
func (s *Scanner) Write(p []byte) (int, error) {
	if s.events {
		for _, c := range p {
			s.event(c)
		}
		return len(p), nil
	}
	for _, c := range p {
		if s.json.next(c) {
			s.take()
		}
	}
	return len(p), nil
}

// Usage returns what was found so far.
func (s *Scanner) Usage() Usage { return s.usage }

func (s *Scanner) event(c byte) {
	if c == '\n' {
		s.line = lineStart
		s.json.reset()
		return
	}
	if c == '\r' {
		return
	}
	switch {
	case s.line == lineData:
		if s.json.next(c) {
			s.take()
		}
	case s.line < lineData && c == "data:"[s.line]:
		s.line++
	default:
		s.line = lineOther
	}
}

// take reads the usage object that was captured.
func (s *Scanner) take() {
	captured := string(s.json.captured)
	if tooDeep(s.json.captured) || !gjson.Valid(captured) {
		return
	}
	u := gjson.Parse(captured)
	prompt, hasPrompt := count(u, "prompt_tokens", "input_tokens")
	completion, hasCompletion := count(u, "completion_tokens", "output_tokens")
	if hasPrompt || hasCompletion {
		s.usage = Usage{Prompt: prompt, Completion: completion, Reported: true}
	}
}

// count returns the first of the names that is a number of tokens.
func count(u gjson.Result, names ...string) (int64, bool) {
	for _, name := range names {
		if v := u.Get(name); v.Type == gjson.Number && v.Num >= 0 && v.Num < 1<<53 {
			return int64(v.Num), true
		}
	}
	return 0, false
}

// jsonState walks one JSON value byte by byte, looking for "usage" and "response"."usage".
type jsonState struct {
	depth      int
	inString   bool
	escaped    bool
	wantKey    bool // the next string at depth 1, or at depth 2 of "response", is a key
	inKey      bool
	inResponse bool // depth 2 is the object "response"
	key        [len("response") + 1]byte
	keyLen     int
	value      valueOf // what the next value at this depth belongs to
	capturing  bool
	captureAt  int // the depth the captured object stands at
	captured   []byte
}

type valueOf uint8

const (
	valueOther valueOf = iota
	valueUsage
	valueResponse
)

func (j *jsonState) reset() { *j = jsonState{captured: j.captured[:0]} }

// next takes one byte and reports whether it completed a usage object, which is then in captured.
func (j *jsonState) next(c byte) (complete bool) {
	if j.capturing {
		if len(j.captured) == maxUsage {
			j.capturing = false
		} else {
			j.captured = append(j.captured, c)
		}
	}
	if j.inString {
		j.text(c)
		return false
	}
	switch c {
	case '"':
		j.inString = true
		j.inKey, j.keyLen = j.wantKey && j.watched(), 0
	case '{', '[':
		j.open(c)
	case '}', ']':
		return j.close()
	case ':':
		j.wantKey = false
	case ',':
		// Inside of arrays it announces no key; then the strings that follow are compared in vain.
		j.wantKey, j.value = true, valueOther
	}
	return false
}

// watched reports whether keys at this depth matter.
func (j *jsonState) watched() bool { return j.depth == 1 || j.depth == 2 && j.inResponse }

func (j *jsonState) text(c byte) {
	switch {
	case j.escaped:
		j.escaped = false
	case c == '\\':
		j.escaped = true
	case c == '"':
		j.inString = false
		if j.inKey {
			j.inKey, j.wantKey = false, false
			j.value = j.named(string(j.key[:j.keyLen]))
		}
		return
	}
	if j.inKey && j.keyLen < len(j.key) {
		j.key[j.keyLen] = c
		j.keyLen++
	}
}

func (j *jsonState) named(key string) valueOf {
	switch {
	case key == "usage":
		return valueUsage
	case key == "response" && j.depth == 1:
		return valueResponse
	}
	return valueOther
}

func (j *jsonState) open(c byte) {
	if c == '{' && j.watched() && !j.capturing {
		switch j.value {
		case valueUsage:
			j.capturing, j.captureAt = true, j.depth
			j.captured = append(j.captured[:0], c)
		case valueResponse:
			j.inResponse = true
		}
	}
	j.depth++
	j.wantKey, j.value = c == '{', valueOther
}

func (j *jsonState) close() (complete bool) {
	j.depth--
	if j.depth <= 1 {
		j.inResponse = false
	}
	j.wantKey, j.value = false, valueOther
	if j.capturing && j.depth == j.captureAt {
		j.capturing = false
		return true
	}
	return false
}
