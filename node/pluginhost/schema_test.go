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
