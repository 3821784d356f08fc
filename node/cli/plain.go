package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"gw/rpc/gwv1"
)

// plain is a value for programs: nil, bool, string, json.Number, []any or object.
type plain = any

// object is a mapping that keeps its order.
type object []member

type member struct {
	key   string
	value plain
}

// MarshalJSON implements json.Marshaler.
func (o object) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, m := range o {
		if i > 0 {
			b.WriteByte(',')
		}
		key, err := marshalJSON(m.key)
		if err != nil {
			return nil, err
		}
		value, err := marshalJSON(m.value)
		if err != nil {
			return nil, err
		}
		b.Write(key)
		b.WriteByte(':')
		b.Write(value)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// marshalJSON encodes a value without escaping what only HTML needs escaped.
func marshalJSON(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimRight(b.Bytes(), "\n"), nil
}

// yamlNode returns a value as YAML's tree.
func yamlNode(v plain) *yaml.Node {
	switch v := v.(type) {
	case nil:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Value: "null"}
	case bool:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: strconv.FormatBool(v)}
	case json.Number:
		tag := "!!int"
		if strings.ContainsAny(v.String(), ".eE") {
			tag = "!!float"
		}
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: tag, Value: v.String()}
	case []any:
		n := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
		for _, item := range v {
			n.Content = append(n.Content, yamlNode(item))
		}
		return n
	case object:
		n := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
		for _, m := range v {
			n.Content = append(n.Content, yamlText(m.key), yamlNode(m.value))
		}
		return n
	default:
		return yamlText(fmt.Sprint(v))
	}
}

func yamlText(s string) *yaml.Node {
	n := new(yaml.Node)
	n.SetString(s)
	return n
}

// encodeYAML returns a value as a YAML document.
func encodeYAML(v plain) ([]byte, error) {
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(yamlNode(v)); err != nil {
		return nil, err
	}
	return b.Bytes(), e.Close()
}

// plainOf returns a message in the shape of its protobuf JSON, with these differences, all for programs' sake: every
// field without presence is there, 64-bit integers are numbers, and enum values are their short words ("in_sync"), ""
// for unspecified.
func plainOf(m proto.Message) plain {
	if r, ok := m.(*gwv1.Resource); ok {
		return resourceOf(r)
	}
	return plainMessage(m.ProtoReflect())
}

func plainMessage(m protoreflect.Message) plain {
	d := m.Descriptor()
	if d.FullName().Parent() == "google.protobuf" {
		return wellKnown(m.Interface())
	}
	fields := d.Fields()
	o := make(object, 0, fields.Len())
	for i := range fields.Len() {
		f := fields.Get(i)
		if f.HasPresence() && !m.Has(f) {
			continue
		}
		o = append(o, member{f.JSONName(), plainField(f, m.Get(f))})
	}
	return o
}

func plainField(f protoreflect.FieldDescriptor, v protoreflect.Value) plain {
	switch {
	case f.IsList():
		items := make([]any, v.List().Len())
		for i := range items {
			items[i] = plainValue(f, v.List().Get(i))
		}
		return items
	case f.IsMap():
		o := make(object, 0, v.Map().Len())
		v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
			o = append(o, member{k.String(), plainValue(f.MapValue(), v)})
			return true
		})
		slices.SortFunc(o, func(a, b member) int { return strings.Compare(a.key, b.key) })
		return o
	default:
		return plainValue(f, v)
	}
}

func plainValue(f protoreflect.FieldDescriptor, v protoreflect.Value) plain {
	switch f.Kind() {
	case protoreflect.MessageKind, protoreflect.GroupKind:
		return plainMessage(v.Message())
	case protoreflect.EnumKind:
		return enumWord(f.Enum(), v.Enum())
	case protoreflect.BoolKind:
		return v.Bool()
	case protoreflect.StringKind:
		return v.String()
	case protoreflect.BytesKind:
		return fmt.Sprintf("%x", v.Bytes())
	default:
		return json.Number(v.String())
	}
}

// wellKnown returns timestamps, durations and structs as protobuf JSON has them.
func wellKnown(m proto.Message) plain {
	data, err := protojson.Marshal(m)
	if err != nil {
		return nil // a timestamp out of range, which no hub sends
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	var v any
	if err := decoder.Decode(&v); err != nil {
		return nil
	}
	return ordered(v)
}

// ordered replaces the maps in decoded JSON by objects, sorted by key.
func ordered(v any) plain {
	switch v := v.(type) {
	case map[string]any:
		o := make(object, 0, len(v))
		for key, value := range v {
			o = append(o, member{key, ordered(value)})
		}
		slices.SortFunc(o, func(a, b member) int { return strings.Compare(a.key, b.key) })
		return o
	case []any:
		items := make([]any, len(v))
		for i := range v {
			items[i] = ordered(v[i])
		}
		return items
	default:
		return v
	}
}

// enumWord returns CONNECTION_CONNECTED of enum Connection as "connected", a number this binary doesn't know as itself.
func enumWord(e protoreflect.EnumDescriptor, n protoreflect.EnumNumber) string {
	v := e.Values().ByNumber(n)
	if v == nil {
		return strconv.Itoa(int(n))
	}
	if n == 0 {
		return ""
	}
	name := string(v.Name())
	if zero := e.Values().ByNumber(0); zero != nil {
		name = strings.TrimPrefix(name, strings.TrimSuffix(string(zero.Name()), "UNSPECIFIED"))
	}
	return strings.ToLower(name)
}

// word is enumWord of a value.
func word(e protoreflect.Enum) string { return enumWord(e.Descriptor(), e.Number()) }

// resourceOf returns a resource in the shape of a file, with what the hub knows of it under status.
func resourceOf(r *gwv1.Resource) object {
	meta := object{{"name", r.GetMetadata().GetName()}, {"namespace", r.GetMetadata().GetNamespace()}}
	if len(r.GetMetadata().GetLabels()) > 0 {
		fields := r.GetMetadata().ProtoReflect()
		labels := fields.Descriptor().Fields().ByName("labels")
		meta = append(meta, member{"labels", plainField(labels, fields.Get(labels))})
	}
	o := object{{"apiVersion", "gw/v1"}, {"kind", r.GetKind()}, {"metadata", meta}, {"spec", object{}}}
	if r.GetSpec() != nil {
		o[3].value = wellKnown(r.GetSpec())
	}
	if r.GetStatus() != nil {
		o = append(o, member{"status", plainMessage(r.GetStatus().ProtoReflect())})
	}
	return o
}

func itoa[T ~int | ~int64 | ~uint32 | ~uint64](n T) string { return fmt.Sprint(n) }
