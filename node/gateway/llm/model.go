package llm

import (
	"bytes"
	"errors"
	"mime"
	"net/textproto"
	"strings"
	"unsafe"

	"github.com/tidwall/gjson"
)

// Errors about the model a body names.
var (
	// ErrNoModel: the body names none.
	ErrNoModel = errors.New("the request names no model")
	// ErrManyModels: it names one in several places, and readers differ in which one counts.
	ErrManyModels = errors.New("the request names a model more than once")
	// ErrBody: the body can't be read.
	ErrBody = errors.New("the body is not what its content type says")
)

// Model is where a body names its model.
type Model struct {
	// Name is the model, unescaped.
	Name string
	// start and end enclose what of the body is the name: of JSON, the string with its quotes.
	start, end int
	json       bool
}

// FindModel finds the model a JSON body names: the string at its top-level key "model". Keys that differ from it only in
// case count too, as some readers take them for it, so a body with one of those is ErrManyModels. The other errors are
// ErrNoModel and ErrBody; a body of more than maxDepth levels is the latter.
func FindModel(body []byte) (Model, error) {
	if tooDeep(body) || !gjson.ValidBytes(body) {
		return Model{}, ErrBody
	}
	// gjson reads strings. The view lives no longer than this call, in which nobody writes to body; names are cloned.
	text := unsafe.String(unsafe.SliceData(body), len(body))
	root := gjson.Parse(text)
	if !root.IsObject() {
		return Model{}, ErrBody
	}
	var m Model
	var err error = ErrNoModel
	root.ForEach(func(key, value gjson.Result) bool {
		if !strings.EqualFold(key.Str, "model") {
			return true
		}
		if err == nil || key.Str != "model" {
			err = ErrManyModels
			return false
		}
		if value.Type != gjson.String || len(value.Raw) < 2 {
			err = ErrBody
			return false
		}
		start := int(uintptr(unsafe.Pointer(unsafe.StringData(value.Raw))) - uintptr(unsafe.Pointer(unsafe.SliceData(body))))
		m = Model{Name: strings.Clone(value.Str), start: start, end: start + len(value.Raw), json: true}
		err = nil
		return true
	})
	if err != nil {
		return Model{}, err
	}
	return m, nil
}

// maxDepth is how many levels of objects and arrays JSON may have to be read. Readers call themselves once per level, and
// a stack that overflows ends the process.
const maxDepth = 1000

// tooDeep reports whether JSON has more than maxDepth levels. What it says of other bytes does not matter, as long as it
// counts every level up to the first byte that is wrong.
func tooDeep(json []byte) bool {
	depth := 0
	for i := 0; i < len(json); i++ {
		switch json[i] {
		case '{', '[':
			if depth++; depth > maxDepth {
				return true
			}
		case '}', ']':
			depth--
		case '"':
			n := stringEnd(json[i+1:])
			if n < 0 {
				return false
			}
			i += 1 + n
		}
	}
	return false
}

// stringEnd returns where the quote stands that ends the string whose content text begins with, or -1.
func stringEnd(text []byte) int {
	for at := 0; ; at++ {
		n := bytes.IndexByte(text[at:], '"')
		if n < 0 {
			return -1
		}
		before := text[at : at+n]
		escapes := len(before) - len(bytes.TrimRight(before, `\`))
		if at += n; escapes%2 == 0 {
			return at
		}
	}
}

// FindFormModel is FindModel for a multipart form: the value of its field "model".
func FindFormModel(body []byte, contentType string) (Model, error) {
	_, params, err := mime.ParseMediaType(contentType)
	if err != nil || params["boundary"] == "" {
		return Model{}, ErrBody
	}
	delimiter := []byte("\r\n--" + params["boundary"])
	// The first delimiter may stand at the very beginning, without a line's end before it.
	at := 0
	if !bytes.HasPrefix(body, delimiter[2:]) {
		if at = bytes.Index(body, delimiter); at < 0 {
			return Model{}, ErrBody
		}
		at += 2
	}
	at += len(delimiter) - 2
	var m Model
	found := ErrNoModel
	for !bytes.HasPrefix(body[at:], []byte("--")) {
		head := bytes.Index(body[at:], []byte("\r\n\r\n"))
		if !bytes.HasPrefix(body[at:], []byte("\r\n")) || head < 0 {
			return Model{}, ErrBody
		}
		start := at + head + 4
		length := bytes.Index(body[start-2:], delimiter) - 2
		if length < 0 {
			return Model{}, ErrBody
		}
		name, ok := formName(body[at+2 : start])
		if !ok {
			return Model{}, ErrBody
		}
		if strings.EqualFold(name, "model") {
			if found == nil || name != "model" {
				return Model{}, ErrManyModels
			}
			m = Model{Name: string(body[start : start+length]), start: start, end: start + length}
			found = nil
		}
		at = start + length + len(delimiter)
	}
	return m, found
}

// formName returns the name of a form's part from its header.
func formName(header []byte) (string, bool) {
	var name string
	found := false
	for line := range bytes.SplitSeq(header, []byte("\r\n")) {
		key, value, _ := strings.Cut(string(line), ":")
		if textproto.CanonicalMIMEHeaderKey(strings.TrimSpace(key)) != "Content-Disposition" {
			continue
		}
		kind, params, err := mime.ParseMediaType(value)
		if err != nil || kind != "form-data" || found {
			return "", false
		}
		name, found = params["name"], true
	}
	return name, found
}

// CutPrefix takes prefix off the name of the model in the body it was found in, and leaves every other byte as it is. It
// reuses body's memory, and returns it unchanged if the name does not begin with prefix.
func (m Model) CutPrefix(body []byte, prefix string) []byte {
	name, ok := strings.CutPrefix(m.Name, prefix)
	if !ok {
		return body
	}
	if !m.json {
		return cut(body, m.start, len(prefix))
	}
	// Written plainly, or with the slash escaped, the prefix is cut out of the string as it stands.
	raw := body[m.start+1 : m.end-1]
	if bytes.HasPrefix(raw, []byte(prefix)) {
		return cut(body, m.start+1, len(prefix))
	}
	if escaped := strings.ReplaceAll(prefix, "/", `\/`); bytes.HasPrefix(raw, []byte(escaped)) {
		return cut(body, m.start+1, len(escaped))
	}
	quoted := gjson.AppendJSONString(nil, name)
	out := make([]byte, 0, m.start+len(quoted)+len(body)-m.end)
	out = append(out, body[:m.start]...)
	out = append(out, quoted...)
	return append(out, body[m.end:]...)
}

// cut removes n bytes at i by moving what stands before them, which is short as a rule: models come first.
func cut(body []byte, i, n int) []byte {
	copy(body[n:i+n], body[:i])
	return body[n:]
}

// MatchModel reports whether a model's name is pattern, in which "*" stands for any characters. It takes time in the
// product of the lengths at worst.
func MatchModel(pattern, name string) bool {
	first, rest, wild := strings.Cut(pattern, "*")
	if !wild {
		return pattern == name
	}
	if !strings.HasPrefix(name, first) {
		return false
	}
	name = name[len(first):]
	for {
		part, more, wild := strings.Cut(rest, "*")
		if !wild {
			return strings.HasSuffix(name, part)
		}
		i := strings.Index(name, part)
		if i < 0 {
			return false
		}
		name, rest = name[i+len(part):], more
	}
}

// AppendModel appends one model as /v1/models lists it.
func AppendModel(dst []byte, id, owner string) []byte {
	dst = append(dst, `{"id":`...)
	dst = gjson.AppendJSONString(dst, id)
	dst = append(dst, `,"object":"model","created":0,"owned_by":`...)
	dst = gjson.AppendJSONString(dst, owner)
	return append(dst, '}')
}
