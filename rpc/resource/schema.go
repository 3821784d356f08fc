package resource

import (
	"cmp"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"gw/rpc/gwv1"
)

// SchemaLevel is the highest schema level that this binary knows: what a resource may hold, as kinds, fields and enum
// values say it in their options. It rises by one with the first release of gw that adds to them.
const SchemaLevel = 1

// Newer is something in a resource that came with a later schema level than was asked for.
type Newer struct {
	// Field is where it stands, such as "spec.upstreams[0].url"; "kind" if the kind itself is newer.
	Field string
	// Element is what it is, by its full name: a spec's message, a field, or an enum value.
	Element string
	Level   uint32
}

// NewerThan returns what in a resource a binary that knows no more than level would refuse as too old, sorted by field;
// nothing below a field that is newer itself. The error is that of Decode.
func NewerThan(level uint32, kindName, name string, spec []byte) ([]Newer, error) {
	if level >= SchemaLevel {
		return nil, nil
	}
	m, err := Decode(kindName, name, spec)
	if err != nil {
		return nil, err
	}
	return newerThan(level, m.ProtoReflect()), nil
}

func newerThan(level uint32, spec protoreflect.Message) []Newer {
	if l := levelOf(spec.Descriptor()); l > level {
		return []Newer{{Field: "kind", Element: string(spec.Descriptor().FullName()), Level: l}}
	}
	s := schemaWalk{level: level}
	s.message(spec, "spec")
	slices.SortFunc(s.found, func(a, b Newer) int { return cmp.Compare(a.Field, b.Field) })
	return s.found
}

// schemaWalk collects what is newer than a level.
type schemaWalk struct {
	level uint32
	found []Newer
}

func (s *schemaWalk) message(m protoreflect.Message, path string) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		at := join(path, f.TextName())
		switch {
		case s.newer(f, at):
		case f.IsMap():
			v.Map().Range(func(key protoreflect.MapKey, v protoreflect.Value) bool {
				s.value(f.MapValue(), v, fmt.Sprintf("%s[%q]", at, key.String()))
				return true
			})
		case f.IsList():
			for i := range v.List().Len() {
				s.value(f, v.List().Get(i), fmt.Sprintf("%s[%d]", at, i))
			}
		default:
			s.value(f, v, at)
		}
		return true
	})
}

func (s *schemaWalk) value(f protoreflect.FieldDescriptor, v protoreflect.Value, at string) {
	switch f.Kind() {
	case protoreflect.EnumKind:
		if value := f.Enum().Values().ByNumber(v.Enum()); value != nil {
			s.newer(value, at)
		}
	case protoreflect.MessageKind:
		s.message(v.Message(), at)
	}
}

// newer reports whether an element is newer than the level, and keeps it if so.
func (s *schemaWalk) newer(d protoreflect.Descriptor, at string) bool {
	l := levelOf(d)
	if l > s.level {
		s.found = append(s.found, Newer{Field: at, Element: string(d.FullName()), Level: l})
	}
	return l > s.level
}

// levelOf returns the level that a spec's message, a field or an enum value came with.
func levelOf(d protoreflect.Descriptor) uint32 {
	var option protoreflect.ExtensionType
	switch d.(type) {
	case protoreflect.MessageDescriptor:
		option = gwv1.E_KindLevel
	case protoreflect.FieldDescriptor:
		option = gwv1.E_Level
	case protoreflect.EnumValueDescriptor:
		option = gwv1.E_ValueLevel
	}
	if !proto.HasExtension(d.Options(), option) {
		return 1
	}
	return proto.GetExtension(d.Options(), option).(uint32)
}
