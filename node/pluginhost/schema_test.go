package pluginhost

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"gw/rpc/resource"
)

func TestValuesBySchema(t *testing.T) {
	for _, c := range []struct{ property, value, want string }{
		{`{"type": "integer", "enum": [1000000, 9007199254740993]}`, "1000000", ""},
		{`{"type": "integer", "enum": [1000000, 9007199254740993]}`, "9007199254740993", ""},
		{`{"type": "integer", "enum": [1000000, 9007199254740993]}`, "9007199254740992", "is not one of what the plugin takes, expected one of 1000000, 9007199254740993"},
		{`{"type": "integer", "enum": [1e6]}`, "1000000", ""},
		{`{"type": "integer", "const": 12345678}`, "12345678", ""},
		{`{"type": "integer", "const": 12345678}`, "12345679", "is not one of what the plugin takes"},
		{`{"type": "number", "enum": [0.5, 2]}`, "0.50", ""},
		{`{"type": "number", "enum": [0.5, 2]}`, "2.0", ""},
		{`{"type": "number", "enum": [0.5, 2]}`, "3", "is not one of what the plugin takes"},
		{`{"type": "string", "enum": ["1.0", 2]}`, "1", "is not one of what the plugin takes"},
		{`{"enum": [2, true, "x"]}`, "true", ""},
		{`{"enum": [2, true, "x"]}`, "2", ""},
		{`{"type": "boolean", "const": true}`, "true", ""},
		{`{"type": "number", "minimum": 1, "maximum": 2}`, "NaN", "is of another type"},
		{`{"type": "number"}`, "NaN", "is of another type"},
		{`{"type": "number"}`, "-Inf", "is of another type"},
		{`{"type": "number"}`, "1e999", "is of another type"},
		{`{"type": "number", "minimum": 1, "maximum": 2}`, "1.5", ""},
		{`{"type": "number", "minimum": 1, "maximum": 2}`, "2.5", "is too large"},
		{`{"type": "string", "maxLength": 2}`, "äöü", "is too long"},
		{`{"type": "string", "pattern": "^a+$"}`, "ab", "does not match"},
	} {
		p := testPlugin(map[string]string{"key": c.value})
		err := checkConfig(&p, []byte(`{"properties": {"key": `+c.property+`}}`))
		var errs resource.Errors
		if err != nil && !errors.As(err, &errs) {
			t.Errorf("%s: %v", c.property, err)
			continue
		}
		if got := fmt.Sprint(err); (err == nil) != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s with %q: got %v, want %q", c.property, c.value, err, c.want)
		}
	}
}

func TestSchemasThatAreNone(t *testing.T) {
	for _, text := range []string{`nonsense`, `{"properties": 1}`, `{} {"required": ["key"]}`, `{"allOf": []}`,
		`{"properties": {"key": {"type": "object"}}}`, `{"properties": {"key": {"type": ["string"]}}}`, `{"properties": {"key": {"pattern": "("}}}`} {
		p := testPlugin(map[string]string{"key": "x"})
		if err := checkConfig(&p, []byte(text)); err == nil || isInvalid(err) || !strings.Contains(err.Error(), "schema can't be used") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func FuzzConfigSchema(f *testing.F) {
	for _, schema := range []string{
		`{"type": "object", "additionalProperties": false, "required": ["a"], "properties": {"a": {"type": "integer", "minimum": 1, "maximum": 1e6}}}`,
		`{"properties": {"a": {"type": "number", "enum": [1, 2.5]}, "b": {"const": true}}}`,
		`{"properties": {"a": {"pattern": "^x{1,9}$", "minLength": 1, "maxLength": 3, "description": "a name"}, "b": null}}`,
		`{"properties": {"a": {"type": ["string"]}}, "required": ["c", "c"]}`, ``, `null`, `{} {}`,
	} {
		f.Add(schema, "a", "1", "b", "true")
		f.Add(schema, "a", "NaN", "c", "\xff")
	}
	f.Fuzz(func(t *testing.T, schema, key, value, otherKey, otherValue string) {
		p := testPlugin(map[string]string{key: value, otherKey: otherValue})
		first := checkConfig(&p, []byte(schema))
		if again := checkConfig(&p, []byte(schema)); fmt.Sprint(first) != fmt.Sprint(again) {
			t.Errorf("first %v, then %v", first, again)
		}
		if first != nil {
			return
		}
		for name := range p.Config { // each is accepted by itself too
			one := p
			one.Config = map[string]string{name: p.Config[name]}
			if err := checkConfig(&one, []byte(schema)); err != nil && !strings.Contains(err.Error(), "is missing") {
				t.Errorf("%q alone: %v", name, err)
			}
		}
	})
}
