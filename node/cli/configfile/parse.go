package configfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/alecthomas/kong"
	"go.yaml.in/yaml/v3"
)

// parse reads a file's values for the flags, each checked by decoding it as its flag will.
func parse(file string, data []byte, flags []*kong.Flag) (map[*kong.Flag]any, Errors) {
	var errs Errors
	fail := func(n *yaml.Node, format string, args ...any) {
		errs = append(errs, &Error{file, max(1, n.Line), max(1, n.Column), fmt.Sprintf(format, args...)})
	}
	top, err := document(file, data)
	if err != nil {
		return nil, Errors{err}
	}
	if top == nil {
		return nil, nil
	}
	if top.Kind != yaml.MappingNode {
		fail(top, `expected "flag: value" lines`)
		return nil, errs
	}
	known := map[string]*kong.Flag{} // key → flag
	var names []string
	for _, f := range flags {
		if f.Name != FlagName && f.Name != "help" {
			known[f.Name] = f
			names = append(names, f.Name)
		}
	}
	slices.Sort(names)
	values := map[*kong.Flag]any{}
	for i := 0; i+1 < len(top.Content); i += 2 {
		key, node := top.Content[i], top.Content[i+1]
		flag := known[strings.ReplaceAll(key.Value, "_", "-")]
		if flag == nil {
			fail(key, "unknown key %q%s", key.Value, suggestion(key.Value, names))
			continue
		}
		if _, twice := values[flag]; twice {
			fail(key, "%s is set twice", flag.Name)
			continue
		}
		value, err := valueOf(node, flag)
		if err != nil {
			fail(node, "%s: %v", flag.Name, err)
		}
		values[flag] = value
	}
	return values, errs
}

// document returns the one document of a file, nil if it is empty.
func document(file string, data []byte) (*yaml.Node, *Error) {
	if trimmed := bytes.TrimSpace(data); len(trimmed) > 0 && trimmed[0] == '{' {
		// YAML forbids the tabs that JSON may be indented with. Inside JSON's strings there are none.
		data = bytes.ReplaceAll(data, []byte{'\t'}, []byte{' '})
	}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var root, next yaml.Node
	if err := decoder.Decode(&root); errors.Is(err, io.EOF) {
		return nil, nil
	} else if err != nil {
		return nil, syntaxError(file, err)
	}
	if err := decoder.Decode(&next); err == nil {
		return nil, &Error{file, max(1, next.Line), max(1, next.Column), "expected one document"}
	} else if !errors.Is(err, io.EOF) {
		return nil, syntaxError(file, err)
	}
	if len(root.Content) == 0 || root.Content[0].Tag == "!!null" {
		return nil, nil
	}
	return root.Content[0], nil
}

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)$`)

func syntaxError(file string, err error) *Error {
	e := &Error{file, 1, 1, strings.ReplaceAll(err.Error(), "\n", " ")}
	if m := yamlLine.FindStringSubmatch(e.Message); m != nil {
		e.Message = m[2]
		if line, err := strconv.Atoi(m[1]); err == nil {
			e.Line = line
		}
	}
	return e
}

// valueOf returns a node's value in the form kong takes for the flag, after trying it.
func valueOf(n *yaml.Node, flag *kong.Flag) (any, error) {
	if n.Kind == yaml.AliasNode && n.Alias != nil {
		n = n.Alias
	}
	value, err := plain(n, flag)
	if err != nil {
		return nil, err
	}
	if text, ok := value.(string); ok && flag.Enum != "" && !flag.EnumMap()[text] {
		return nil, fmt.Errorf("%q is not one of %s", text, strings.Join(flag.EnumSlice(), ", "))
	}
	scratch := reflect.New(flag.Target.Type()).Elem()
	if scratch.Kind() == reflect.Pointer {
		scratch.Set(reflect.New(scratch.Type().Elem()))
	}
	scan := kong.Scan().PushTyped(value, kong.FlagValueToken)
	if err := flag.Mapper.Decode(&kong.DecodeContext{Value: flag.Value, Scan: scan}, scratch); err != nil {
		return nil, err
	}
	return value, nil
}

func plain(n *yaml.Node, flag *kong.Flag) (any, error) {
	switch {
	case n.Kind == yaml.ScalarNode && n.Tag == "!!null":
		return nil, errors.New("has no value")
	case n.Kind == yaml.ScalarNode:
		return n.Value, nil
	case n.Kind == yaml.SequenceNode && flag.IsSlice():
		return list(n, flag)
	case n.Kind == yaml.MappingNode && flag.IsMap():
		pairs := map[string]any{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			k, v := n.Content[i], n.Content[i+1]
			if k.Kind != yaml.ScalarNode || v.Kind != yaml.ScalarNode {
				return nil, errors.New(`expected "key: value" lines`)
			}
			if _, twice := pairs[k.Value]; twice {
				return nil, fmt.Errorf("%s is set twice", k.Value)
			}
			pairs[k.Value] = v.Value
		}
		return pairs, nil
	case flag.IsSlice():
		return nil, errors.New("expected a value or a list of values")
	case flag.IsMap():
		return nil, errors.New(`expected "key: value" lines`)
	default:
		return nil, errors.New("expected one value")
	}
}

func list(n *yaml.Node, flag *kong.Flag) (any, error) {
	texts := make([]string, len(n.Content))
	items := make([]any, len(n.Content))
	for i, item := range n.Content {
		if item.Kind != yaml.ScalarNode || item.Tag == "!!null" {
			return nil, errors.New("expected a list of values")
		}
		texts[i], items[i] = item.Value, item.Value
	}
	if flag.Target.Type().Elem().Kind() == reflect.String || flag.Tag.Sep == -1 || len(items) == 0 {
		return items, nil
	}
	return kong.JoinEscaped(texts, flag.Tag.Sep), nil
}

// suggestion names the key that was meant, or all there are.
func suggestion(key string, names []string) string {
	if len(names) == 0 {
		return ""
	}
	if len(key) > 64 {
		return "; known are " + strings.Join(names, ", ")
	}
	key = strings.ReplaceAll(strings.ToLower(key), "_", "-")
	best, distance := "", len(key)+1
	for _, name := range names {
		if d := editDistance(key, name); d < distance {
			best, distance = name, d
		}
	}
	if distance <= max(2, len(key)/2) {
		return fmt.Sprintf(", did you mean %q?", best)
	}
	return "; known are " + strings.Join(names, ", ")
}

// editDistance counts the bytes to insert, delete or replace between a and b (Levenshtein).
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(diagonal+cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
