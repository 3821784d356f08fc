package resource

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
)

// Decode reads canonical bytes. A kind, field or enum value that this binary doesn't know is an *Error with CodeTooOld
// and the field's path, so that a resource is never half understood; bytes that aren't a spec are one with CodeInvalid.
func Decode(kindName, name string, spec []byte) (proto.Message, error) {
	fail := func(field, code, message, expected string) error {
		return &Error{Kind: kindName, Name: name, Field: field, Code: code, Message: message, Expected: expected}
	}
	k, ok := kindNamed(kindName)
	if !ok {
		return nil, fail("kind", CodeTooOld, "is not known to this version", "one of "+strings.Join(Kinds(), ", "))
	}
	m := k.spec()
	if err := proto.Unmarshal(spec, m); err != nil {
		return nil, fail("spec", CodeInvalid, "can't be decoded", "a protobuf message "+string(m.ProtoReflect().Descriptor().Name()))
	}
	if field, what := findUnknown(m.ProtoReflect(), "spec"); what != "" {
		return nil, fail(field, CodeTooOld, what+" is not known to this version", "a newer gw")
	}
	return m, nil
}

// findUnknown returns the path of the first field or enum value the binary doesn't know, and what it is.
func findUnknown(m protoreflect.Message, path string) (field, what string) {
	if unknown := m.GetUnknown(); len(unknown) > 0 {
		number, _, _ := protowire.ConsumeTag(unknown)
		return path, fmt.Sprintf("field %d", number)
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		at := join(path, f.TextName())
		check := func(f protoreflect.FieldDescriptor, v protoreflect.Value, at string) bool {
			switch f.Kind() {
			case protoreflect.EnumKind:
				if f.Enum().Values().ByNumber(v.Enum()) == nil {
					field, what = at, fmt.Sprintf("value %d", v.Enum())
				}
			case protoreflect.MessageKind:
				field, what = findUnknown(v.Message(), at)
			}
			return what == ""
		}
		switch {
		case f.IsMap():
			v.Map().Range(func(key protoreflect.MapKey, v protoreflect.Value) bool {
				return check(f.MapValue(), v, fmt.Sprintf("%s[%q]", at, key.String()))
			})
		case f.IsList():
			for i := range v.List().Len() {
				if !check(f, v.List().Get(i), fmt.Sprintf("%s[%d]", at, i)) {
					break
				}
			}
		default:
			check(f, v, at)
		}
		return what == ""
	})
	return field, what
}

// Render returns a spec as it is written in a file.
func Render(spec proto.Message) *structpb.Struct {
	return renderMessage(spec.ProtoReflect())
}

func renderMessage(m protoreflect.Message) *structpb.Struct {
	s := &structpb.Struct{Fields: map[string]*structpb.Value{}}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsMap():
			fields := map[string]*structpb.Value{}
			v.Map().Range(func(key protoreflect.MapKey, v protoreflect.Value) bool {
				fields[key.String()] = renderValue(f.MapValue(), v)
				return true
			})
			s.Fields[f.TextName()] = structpb.NewStructValue(&structpb.Struct{Fields: fields})
		case f.IsList():
			list := &structpb.ListValue{}
			for i := range v.List().Len() {
				list.Values = append(list.Values, renderValue(f, v.List().Get(i)))
			}
			s.Fields[f.TextName()] = structpb.NewListValue(list)
		default:
			s.Fields[f.TextName()] = renderValue(f, v)
		}
		return true
	})
	return s
}

func renderValue(f protoreflect.FieldDescriptor, v protoreflect.Value) *structpb.Value {
	switch f.Kind() {
	case protoreflect.BoolKind:
		return structpb.NewBoolValue(v.Bool())
	case protoreflect.Uint32Kind:
		return structpb.NewNumberValue(float64(v.Uint()))
	case protoreflect.EnumKind:
		if value := f.Enum().Values().ByNumber(v.Enum()); value != nil {
			return structpb.NewStringValue(enumWords(f.Enum())[value.Index()])
		}
		return structpb.NewNumberValue(float64(v.Enum()))
	case protoreflect.MessageKind:
		if d, ok := v.Message().Interface().(*durationpb.Duration); ok {
			return structpb.NewStringValue(d.AsDuration().String())
		}
		return structpb.NewStructValue(renderMessage(v.Message()))
	}
	return structpb.NewStringValue(v.String())
}
