package resource

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"

	"go.yaml.in/yaml/v3"
)

// jsonReader turns JSON into the nodes that YAML of the same meaning has. YAML's parser would do for most JSON, but not
// for all: it knows neither "\/" nor surrogate pairs.
type jsonReader struct {
	data   []byte
	tokens *json.Decoder
	line   int // of the offset below, from 1
	start  int // offset of that line's first byte
	offset int // up to where lines are counted
}

// readJSON returns the documents of a file of JSON objects, one after the other. ok is false if it is not JSON.
func readJSON(data []byte) (documents []*yaml.Node, ok bool) {
	if trimmed := bytes.TrimLeft(data, " \t\r\n"); len(trimmed) == 0 || trimmed[0] != '{' {
		return nil, false
	}
	r := &jsonReader{data: data, tokens: json.NewDecoder(bytes.NewReader(data)), line: 1}
	r.tokens.UseNumber()
	for {
		n, err := r.value(0)
		if errors.Is(err, io.EOF) {
			return documents, true
		}
		if err != nil {
			return nil, false
		}
		documents = append(documents, n)
	}
}

var errNested = errors.New("nested too deep")

// value reads one value. At the end of the data the error is io.EOF.
func (r *jsonReader) value(depth int) (*yaml.Node, error) {
	if depth > 2*maxDepth {
		return nil, errNested
	}
	n := r.node()
	token, err := r.tokens.Token()
	if err != nil {
		return nil, err
	}
	n.Kind = yaml.ScalarNode
	switch t := token.(type) {
	case json.Delim:
		n.Kind, n.Tag = yaml.MappingNode, "!!map"
		if t == '[' {
			n.Kind, n.Tag = yaml.SequenceNode, "!!seq"
		}
		return n, r.fill(n, depth)
	case string:
		n.Tag, n.Value = "!!str", t
	case json.Number:
		n.Tag, n.Value = "!!int", t.String()
		if strings.ContainsAny(n.Value, ".eE") {
			n.Tag = "!!float"
		}
	case bool:
		n.Tag, n.Value = "!!bool", "false"
		if t {
			n.Value = "true"
		}
	default:
		n.Tag = "!!null"
	}
	return n, nil
}

// fill reads the keys and values of a mapping, or the items of a list, up to its end.
func (r *jsonReader) fill(n *yaml.Node, depth int) error {
	for r.tokens.More() {
		child, err := r.value(depth + 1)
		if err != nil {
			return noEOF(err)
		}
		n.Content = append(n.Content, child)
	}
	_, err := r.tokens.Token()
	return noEOF(err)
}

// noEOF keeps the end of the data inside a value from being taken for the end of the documents.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// node returns a node at the place where the next token begins.
func (r *jsonReader) node() *yaml.Node {
	at := int(r.tokens.InputOffset())
	for at < len(r.data) && strings.IndexByte(" \t\r\n,:", r.data[at]) >= 0 {
		at++
	}
	for ; r.offset < at; r.offset++ {
		if r.data[r.offset] == '\n' {
			r.line++
			r.start = r.offset + 1
		}
	}
	return &yaml.Node{Line: r.line, Column: at - r.start + 1}
}
