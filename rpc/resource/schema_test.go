package resource

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	"gw/rpc/gwv1"
)

var update = flag.Bool("update", false, "add what is new to testdata/schema.txt")

const schemaFile = "testdata/schema.txt"

// schemaOf lists every kind, field and enum value that a resource may hold, with its level.
func schemaOf() map[string]uint32 {
	levels := map[string]uint32{}
	var walk func(m protoreflect.MessageDescriptor)
	walk = func(m protoreflect.MessageDescriptor) {
		for i := range m.Fields().Len() {
			f := m.Fields().Get(i)
			if _, seen := levels[string(f.FullName())]; seen {
				return
			}
			levels[string(f.FullName())] = levelOf(f)
			if f.IsMap() {
				f = f.MapValue()
			}
			if e := f.Enum(); e != nil {
				for i := range e.Values().Len() {
					levels[string(e.FullName())+"."+string(e.Values().Get(i).Name())] = levelOf(e.Values().Get(i))
				}
			}
			if below := f.Message(); below != nil && below.ParentFile().Package() == "gw.v1" {
				walk(below)
			}
		}
	}
	for _, k := range kinds {
		d := k.spec().ProtoReflect().Descriptor()
		levels["kind "+k.name] = levelOf(d)
		walk(d)
	}
	return levels
}

// What is new has the newest level, and what is there keeps the one it has: a field whose level was forgotten would be
// taken for one that every edge knows.
func TestEveryFieldHasTheSchemaLevelItCameWith(t *testing.T) {
	data, err := os.ReadFile(schemaFile)
	if err != nil && !*update {
		t.Fatal(err)
	}
	listed := map[string]uint32{}
	for line := range strings.Lines(string(data)) {
		var level uint32
		var name string
		if _, err := fmt.Sscanf(line, "%d", &level); err != nil {
			t.Fatalf("%s: %q: %v", schemaFile, line, err)
		}
		_, name, _ = strings.Cut(strings.TrimSpace(line), " ")
		listed[name] = level
	}
	now, added := schemaOf(), []string(nil)
	for name, level := range now {
		was, known := listed[name]
		switch {
		case level < 1 || level > SchemaLevel:
			t.Errorf("%s has level %d; SchemaLevel is %d", name, level, SchemaLevel)
		case known && was != level:
			t.Errorf("%s had level %d and has %d: edges rely on it, take the old one", name, was, level)
		case !known && level != SchemaLevel:
			t.Errorf("%s is new: give it (level) = %d, or (kind_level) or (value_level)", name, SchemaLevel)
		case !known:
			listed[name] = level
			added = append(added, name)
		}
	}
	if len(added) > 0 && !*update {
		slices.Sort(added)
		t.Errorf("%s doesn't list what follows. If a gw of SchemaLevel %d was released without it, raise that and give it the new one.\nThen: go test ./rpc/resource -run SchemaLevel -update\n%s",
			schemaFile, SchemaLevel, strings.Join(added, "\n"))
	}
	for name := range listed {
		if _, ok := now[name]; !ok {
			t.Errorf("%s is listed in %s and no longer there: edges and stored resources have it", name, schemaFile)
		}
	}
	if *update && !t.Failed() {
		writeSchema(t, listed)
	}
}

func writeSchema(t *testing.T, levels map[string]uint32) {
	t.Helper()
	var lines []string
	for name, level := range levels {
		lines = append(lines, fmt.Sprintf("%d %s\n", level, name))
	}
	slices.Sort(lines)
	if err := os.WriteFile(schemaFile, []byte(strings.Join(lines, "")), 0o644); err != nil {
		t.Fatal(err)
	}
}

// futureSpec is a kind as a later gw may have it: field plain is of level 1, added of level 2, and mode has the values
// OLD, of level 1, and NEW, of level 3; parts and named hold messages of the same kind.
func futureSpec(t *testing.T, kindLevel uint32) protoreflect.MessageDescriptor {
	t.Helper()
	field := func(name string, number int32, kind descriptorpb.FieldDescriptorProto_Type, typeName string, level uint32) *descriptorpb.FieldDescriptorProto {
		f := &descriptorpb.FieldDescriptorProto{Name: &name, Number: &number, Type: &kind, Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum(),
			Options: &descriptorpb.FieldOptions{}}
		if typeName != "" {
			f.TypeName = &typeName
		}
		if level > 0 {
			proto.SetExtension(f.Options, gwv1.E_Level, level)
		}
		return f
	}
	const text, message, enum = descriptorpb.FieldDescriptorProto_TYPE_STRING, descriptorpb.FieldDescriptorProto_TYPE_MESSAGE, descriptorpb.FieldDescriptorProto_TYPE_ENUM
	parts := field("parts", 4, message, ".future.Spec", 0)
	parts.Label = descriptorpb.FieldDescriptorProto_LABEL_REPEATED.Enum()
	named := field("named", 5, message, ".future.Spec.NamedEntry", 0)
	named.Label = descriptorpb.FieldDescriptorProto_LABEL_REPEATED.Enum()
	newValue := &descriptorpb.EnumValueOptions{}
	proto.SetExtension(newValue, gwv1.E_ValueLevel, uint32(3))
	spec := &descriptorpb.DescriptorProto{
		Name: proto.String("Spec"), Options: &descriptorpb.MessageOptions{},
		Field: []*descriptorpb.FieldDescriptorProto{field("plain", 1, text, "", 0), field("added", 2, message, ".future.Spec", 2),
			field("mode", 3, enum, ".future.Mode", 0), parts, named},
		NestedType: []*descriptorpb.DescriptorProto{{Name: proto.String("NamedEntry"), Options: &descriptorpb.MessageOptions{MapEntry: proto.Bool(true)},
			Field: []*descriptorpb.FieldDescriptorProto{field("key", 1, text, "", 0), field("value", 2, message, ".future.Spec", 0)}}},
	}
	if kindLevel > 0 {
		proto.SetExtension(spec.Options, gwv1.E_KindLevel, kindLevel)
	}
	file, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name: proto.String("future.proto"), Package: proto.String("future"), Syntax: proto.String("proto3"), MessageType: []*descriptorpb.DescriptorProto{spec},
		EnumType: []*descriptorpb.EnumDescriptorProto{{Name: proto.String("Mode"), Value: []*descriptorpb.EnumValueDescriptorProto{
			{Name: proto.String("NONE"), Number: proto.Int32(0)}, {Name: proto.String("OLD"), Number: proto.Int32(1)},
			{Name: proto.String("NEW"), Number: proto.Int32(2), Options: newValue}}}},
	}, new(protoregistry.Files))
	if err != nil {
		t.Fatal(err)
	}
	return file.Messages().ByName("Spec")
}

func TestNewerThanFindsWhatAnOlderBinaryWouldNotKnow(t *testing.T) {
	d := futureSpec(t, 0)
	field := func(name string) protoreflect.FieldDescriptor { return d.Fields().ByName(protoreflect.Name(name)) }
	made := func(change func(m protoreflect.Message)) protoreflect.Message {
		m := dynamicpb.NewMessage(d)
		change(m)
		return m
	}
	mode := func(n protoreflect.EnumNumber) func(protoreflect.Message) {
		return func(m protoreflect.Message) { m.Set(field("mode"), protoreflect.ValueOfEnum(n)) }
	}
	added := func(m protoreflect.Message) {
		m.Set(field("added"), protoreflect.ValueOfMessage(made(mode(2))))
	}
	everything := made(func(m protoreflect.Message) {
		m.Set(field("plain"), protoreflect.ValueOfString("x"))
		added(m)
		parts := m.Mutable(field("parts")).List()
		parts.Append(protoreflect.ValueOfMessage(made(mode(1))))
		parts.Append(protoreflect.ValueOfMessage(made(mode(2))))
		m.Mutable(field("named")).Map().Set(protoreflect.ValueOfString("k").MapKey(), protoreflect.ValueOfMessage(made(added)))
	})
	for _, x := range []struct {
		level uint32
		want  string
	}{
		{1, "spec.added future.Spec.added 2, spec.named[\"k\"].added future.Spec.added 2, spec.parts[1].mode future.NEW 3"},
		{2, "spec.added.mode future.NEW 3, spec.named[\"k\"].added.mode future.NEW 3, spec.parts[1].mode future.NEW 3"},
		{3, ""},
	} {
		var words []string
		for _, n := range newerThan(x.level, everything) {
			words = append(words, fmt.Sprintf("%s %s %d", n.Field, n.Element, n.Level))
		}
		if got := strings.Join(words, ", "); got != x.want {
			t.Errorf("newer than %d: %s; want %s", x.level, got, x.want)
		}
	}
	if got := newerThan(1, made(mode(1))); len(got) != 0 {
		t.Errorf("of what level 1 has: %v", got)
	}
	kind := newerThan(1, dynamicpb.NewMessage(futureSpec(t, 2)))
	if len(kind) != 1 || kind[0] != (Newer{Field: "kind", Element: "future.Spec", Level: 2}) {
		t.Errorf("of a newer kind: %v", kind)
	}
}

func TestNewerThanSaysWhatCanNotBeRead(t *testing.T) {
	if _, err := NewerThan(0, "Nothing", "a", nil); err == nil {
		t.Error("a kind that nobody knows was read")
	}
	if got, err := NewerThan(SchemaLevel, "Nothing", "a", nil); err != nil || got != nil {
		t.Errorf("nothing is newer than what this binary knows; got %v, %v", got, err)
	}
}
