package resource

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
)

// nodeBudget bounds the nodes visited for one file, so that aliases of aliases can't make a small file endless work.
const nodeBudget = 4_000_000

// maxDepth bounds nesting.
const maxDepth = 64

const durationName = protoreflect.FullName("google.protobuf.Duration")

// reader turns YAML nodes into a protobuf message, by the message's own description, collecting every error and the
// position of every field.
type reader struct {
	document *Document
	budget   *int
	depth    int
	errs     Errors
}

func (r *reader) fail(n *yaml.Node, field, code, message, expected string) {
	if n != nil && r.document.positions != nil {
		r.document.positions[field] = position{n.Line, n.Column}
	}
	r.errs = append(r.errs, r.document.errorAt(field, code, message, expected))
}

// resolve follows an alias, charges the budget and notes the position. It returns nil for null and for what can't be
// visited any more.
func (r *reader) resolve(n *yaml.Node, field string) *yaml.Node {
	if n == nil {
		return nil
	}
	if r.document.positions != nil {
		r.document.positions[field] = position{n.Line, n.Column}
	}
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	*r.budget--
	if *r.budget == 0 || r.depth > maxDepth {
		r.fail(n, field, CodeTooLarge, "is too large or nested too deep once its aliases are followed", "")
	}
	if *r.budget <= 0 || r.depth > maxDepth || n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return nil
	}
	return n
}

// mapping returns the values of a mapping by key. Keys outside known are errors, and so are repeated ones.
func (r *reader) mapping(n *yaml.Node, field string, known []string) map[string]*yaml.Node {
	n = r.resolve(n, field)
	if n == nil {
		return nil
	}
	if n.Kind != yaml.MappingNode {
		r.fail(n, field, CodeInvalid, "is "+describe(n), "a mapping")
		return nil
	}
	values := make(map[string]*yaml.Node, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		path := join(field, key.Value)
		switch _, twice := values[key.Value]; {
		case key.Kind != yaml.ScalarNode:
			r.fail(key, field, CodeInvalid, "has a key that is "+describe(key), "a plain name")
		case twice:
			r.fail(key, path, CodeInvalid, "is given twice", "each field once")
		case known != nil && !slices.Contains(known, key.Value):
			r.fail(key, path, CodeUnknownField, "is not a field", "one of "+strings.Join(known, ", "))
		default:
			values[key.Value] = value
		}
	}
	return values
}

// text returns a string, "" for none.
func (r *reader) text(n *yaml.Node, field string) string {
	n = r.resolve(n, field)
	if n == nil {
		return ""
	}
	if n.Kind != yaml.ScalarNode || n.Tag != "!!str" {
		r.fail(n, field, CodeInvalid, "is "+describe(n), "a string"+quoteHint(n))
		return ""
	}
	return n.Value
}

func (r *reader) message(n *yaml.Node, m protoreflect.Message, field string) {
	r.depth++
	defer func() { r.depth-- }()
	fields := m.Descriptor().Fields()
	known := make([]string, fields.Len())
	for i := range known {
		known[i] = fields.Get(i).TextName()
	}
	values := r.mapping(n, field, known)
	// In the order of the description, so that errors come in the same order each time.
	for i := range known {
		f := fields.Get(i)
		if v, ok := values[known[i]]; ok {
			r.field(v, m, f, join(field, known[i]))
		}
	}
}

func (r *reader) field(n *yaml.Node, m protoreflect.Message, f protoreflect.FieldDescriptor, path string) {
	switch {
	case f.IsMap():
		values := r.mapping(n, path, nil)
		for _, key := range slices.Sorted(maps.Keys(values)) {
			if v, ok := r.value(values[key], f.MapValue(), m.Mutable(f).Map().NewValue, fmt.Sprintf("%s[%q]", path, key)); ok {
				m.Mutable(f).Map().Set(protoreflect.ValueOfString(key).MapKey(), v)
			}
		}
	case f.IsList():
		n = r.resolve(n, path)
		if n == nil {
			return
		}
		if n.Kind != yaml.SequenceNode {
			r.fail(n, path, CodeInvalid, "is "+describe(n), "a list")
			return
		}
		list := m.Mutable(f).List()
		for i, item := range n.Content {
			if v, ok := r.value(item, f, list.NewElement, fmt.Sprintf("%s[%d]", path, i)); ok {
				list.Append(v)
			}
		}
	default:
		if v, ok := r.value(n, f, func() protoreflect.Value { return m.NewField(f) }, path); ok {
			m.Set(f, v)
		}
	}
}

// value reads one value; ok is false for null and after an error.
func (r *reader) value(n *yaml.Node, f protoreflect.FieldDescriptor, fresh func() protoreflect.Value, path string) (v protoreflect.Value, ok bool) {
	n = r.resolve(n, path)
	if n == nil {
		return v, false
	}
	if f.Kind() == protoreflect.MessageKind && f.Message().FullName() != durationName {
		v = fresh()
		r.message(n, v.Message(), path)
		return v, true
	}
	v, expected := scalar(n, f)
	if expected != "" {
		r.fail(n, path, CodeInvalid, "is "+describe(n), expected)
		return v, false
	}
	return v, true
}

// scalar reads a scalar; expected says what was, if it is something else.
func scalar(n *yaml.Node, f protoreflect.FieldDescriptor) (v protoreflect.Value, expected string) {
	if n.Kind != yaml.ScalarNode {
		return v, "a single value"
	}
	switch f.Kind() {
	case protoreflect.StringKind:
		if n.Tag != "!!str" {
			return v, "a string" + quoteHint(n)
		}
		return protoreflect.ValueOfString(n.Value), ""
	case protoreflect.BoolKind:
		if n.Tag != "!!bool" {
			return v, "true or false"
		}
		return protoreflect.ValueOfBool(strings.EqualFold(n.Value, "true")), ""
	case protoreflect.Uint32Kind:
		var u uint32
		if n.Tag != "!!int" || n.Decode(&u) != nil {
			return v, fmt.Sprintf("a whole number from 0 to %d", uint32(math.MaxUint32))
		}
		return protoreflect.ValueOfUint32(u), ""
	case protoreflect.EnumKind:
		words := enumWords(f.Enum())
		i := slices.Index(words, n.Value)
		if i < 0 || n.Tag != "!!str" {
			return v, "one of " + strings.Join(words[1:], ", ")
		}
		return protoreflect.ValueOfEnum(f.Enum().Values().Get(i).Number()), ""
	case protoreflect.MessageKind: // only Duration comes here
		d, err := time.ParseDuration(n.Value)
		if err != nil {
			return v, `a duration such as "250ms", "30s" or "2m"`
		}
		return protoreflect.ValueOfMessage(durationpb.New(d).ProtoReflect()), ""
	}
	return v, "nothing: this version can't read a field of type " + f.Kind().String()
}

// enumWords returns the values of an enum as they are written in files: AUTH_KEYLESS of Auth is "keyless". The first,
// "unspecified", can't be written.
func enumWords(e protoreflect.EnumDescriptor) []string {
	prefix := strings.TrimSuffix(string(e.Values().Get(0).Name()), "UNSPECIFIED")
	words := make([]string, e.Values().Len())
	for i := 1; i < len(words); i++ {
		words[i] = strings.ToLower(strings.TrimPrefix(string(e.Values().Get(i).Name()), prefix))
	}
	return words
}

func join(field, name string) string {
	if field == "" {
		return name
	}
	return field + "." + name
}

// describe says what a node is, as a person would.
func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	value := n.Value
	if len(value) > 60 {
		value = value[:60] + "…"
	}
	switch n.Tag {
	case "!!str":
		return strconv.Quote(value)
	case "!!null":
		return "empty"
	}
	return value
}

func quoteHint(n *yaml.Node) string {
	if n.Kind == yaml.ScalarNode && n.Tag != "!!null" {
		return " (put it in quotes)"
	}
	return ""
}

// structNode turns a Struct into the nodes a file with the same content gives, less the positions.
func structNode(s *structpb.Struct) *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	for _, key := range slices.Sorted(maps.Keys(s.GetFields())) {
		n.Content = append(n.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: key}, valueNode(s.Fields[key]))
	}
	return n
}

func valueNode(v *structpb.Value) *yaml.Node {
	switch k := v.GetKind().(type) {
	case *structpb.Value_StringValue:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: k.StringValue}
	case *structpb.Value_BoolValue:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: strconv.FormatBool(k.BoolValue)}
	case *structpb.Value_NumberValue:
		if k.NumberValue == math.Trunc(k.NumberValue) && math.Abs(k.NumberValue) < 1<<53 {
			return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!int", Value: strconv.FormatInt(int64(k.NumberValue), 10)}
		}
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!float", Value: strconv.FormatFloat(k.NumberValue, 'g', -1, 64)}
	case *structpb.Value_StructValue:
		return structNode(k.StructValue)
	case *structpb.Value_ListValue:
		n := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
		for _, item := range k.ListValue.GetValues() {
			n.Content = append(n.Content, valueNode(item))
		}
		return n
	}
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null"}
}
