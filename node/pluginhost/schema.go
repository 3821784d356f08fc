package pluginhost

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"gw/rpc/resource"
)

// maxSchema bounds a schema, in bytes.
const maxSchema = 1 << 20

// schema is what gw understands of a JSON Schema. What only describes is passed over; anything else that would narrow
// what is valid is refused, because a check that skips it would say yes too often.
type schema struct {
	Type                 any                `json:"type"`
	Properties           map[string]*schema `json:"properties"`
	Required             []string           `json:"required"`
	AdditionalProperties *bool              `json:"additionalProperties"`
	Enum                 []any              `json:"enum"`
	Const                any                `json:"const"`
	Pattern              string             `json:"pattern"`
	MinLength            *int               `json:"minLength"`
	MaxLength            *int               `json:"maxLength"`
	Minimum              *float64           `json:"minimum"`
	Maximum              *float64           `json:"maximum"`

	Schema      any `json:"$schema"`
	ID          any `json:"$id"`
	Comment     any `json:"$comment"`
	Title       any `json:"title"`
	Description any `json:"description"`
	Default     any `json:"default"`
	Examples    any `json:"examples"`
	Format      any `json:"format"`
	Deprecated  any `json:"deprecated"`
	ReadOnly    any `json:"readOnly"`
	WriteOnly   any `json:"writeOnly"`
}

// checkConfig checks a plugin's config by the plugin's own schema; none accepts everything. The error is resource.Errors if
// the config is wrong, and any other if the schema is.
func checkConfig(p *Plugin, text []byte) error {
	if len(text) == 0 {
		return nil
	}
	if len(text) > maxSchema {
		return fmt.Errorf("the plugin's config schema has %d bytes, at most %d are read", len(text), maxSchema)
	}
	var s schema
	d := json.NewDecoder(strings.NewReader(string(text)))
	d.DisallowUnknownFields()
	d.UseNumber() // enum and const are compared with what is written
	if err := d.Decode(&s); err != nil {
		return fmt.Errorf("the plugin's config schema can't be used: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("the plugin's config schema can't be used: something follows it")
	}
	var errs resource.Errors
	for _, name := range s.Required {
		if _, ok := p.Config[name]; !ok {
			errs = append(errs, p.invalid(configField(name), "is missing", s.Properties[name].expected()))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(p.Config)) {
		property, ok := s.Properties[name]
		if !ok {
			if s.AdditionalProperties != nil && !*s.AdditionalProperties {
				errs = append(errs, p.invalid(configField(name), "is not known to the plugin", "one of "+strings.Join(slices.Sorted(maps.Keys(s.Properties)), ", ")))
			}
			continue
		}
		problem, err := property.problem(p.Config[name])
		if err != nil {
			return fmt.Errorf("the plugin's config schema can't be used: property %q: %w", name, err)
		}
		if problem != "" {
			errs = append(errs, p.invalid(configField(name), problem, property.expected()))
		}
	}
	if len(errs) > 0 {
		return errs
	}
	return nil
}

func configField(name string) string { return fmt.Sprintf("spec.config[%q]", name) }

// problem says what is wrong with a value, "" if nothing is. The value is not repeated: it may be one that nobody should
// read in a log.
func (s *schema) problem(value string) (string, error) {
	if s == nil {
		return "", nil
	}
	number, err := 0.0, error(nil)
	switch s.Type {
	case "integer":
		var n int64
		n, err = strconv.ParseInt(value, 10, 64)
		number = float64(n)
	case "number":
		if number, err = strconv.ParseFloat(value, 64); err == nil && (math.IsNaN(number) || math.IsInf(number, 0)) {
			err = strconv.ErrRange // no limit would hold for them
		}
	case "boolean":
		_, err = strconv.ParseBool(value)
	case "string", nil:
	default:
		return "", fmt.Errorf("type %v is not one of string, integer, number and boolean", s.Type)
	}
	if err != nil {
		return "is of another type", nil
	}
	if s.Pattern != "" {
		re, err := regexp.Compile(s.Pattern)
		if err != nil {
			return "", err
		}
		if !re.MatchString(value) {
			return "does not match", nil
		}
	}
	numeric := s.Type == "integer" || s.Type == "number"
	length := utf8.RuneCountInString(value)
	switch {
	case s.Enum != nil && !slices.ContainsFunc(s.Enum, func(v any) bool { return equal(v, value, numeric) }),
		s.Const != nil && !equal(s.Const, value, numeric):
		return "is not one of what the plugin takes", nil
	case s.MinLength != nil && length < *s.MinLength:
		return "is too short", nil
	case s.MaxLength != nil && length > *s.MaxLength:
		return "is too long", nil
	case numeric && s.Minimum != nil && number < *s.Minimum:
		return "is too small", nil
	case numeric && s.Maximum != nil && number > *s.Maximum:
		return "is too large", nil
	}
	return "", nil
}

// equal reports whether a value is v of a schema: in writing, or if it is numeric as a number, 2.0 as 2.
func equal(v any, value string, numeric bool) bool {
	if fmt.Sprint(v) == value {
		return true
	}
	n, ok := v.(json.Number)
	if !ok || !numeric {
		return false
	}
	a, errA := n.Float64()
	b, errB := strconv.ParseFloat(value, 64)
	return errA == nil && errB == nil && a == b && math.Abs(a) < 1<<53 // from there on different numbers are the same float
}

// expected says what a value should be.
func (s *schema) expected() string {
	if s == nil {
		return "a value"
	}
	var parts []string
	if s.Enum != nil {
		words := make([]string, len(s.Enum))
		for i, v := range s.Enum {
			words[i] = fmt.Sprint(v)
		}
		parts = append(parts, "one of "+strings.Join(words, ", "))
	} else if t, ok := s.Type.(string); ok {
		parts = append(parts, map[string]string{"integer": "a whole number", "number": "a number", "boolean": "true or false", "string": "a string"}[t])
	}
	if s.Minimum != nil {
		parts = append(parts, fmt.Sprintf("at least %v", *s.Minimum))
	}
	if s.Maximum != nil {
		parts = append(parts, fmt.Sprintf("at most %v", *s.Maximum))
	}
	if s.MinLength != nil {
		parts = append(parts, fmt.Sprintf("at least %d characters", *s.MinLength))
	}
	if s.MaxLength != nil {
		parts = append(parts, fmt.Sprintf("at most %d characters", *s.MaxLength))
	}
	if s.Pattern != "" {
		parts = append(parts, "matching "+s.Pattern)
	}
	if text, ok := s.Description.(string); ok && text != "" {
		parts = append(parts, "which is "+clip(text, 200))
	}
	if len(parts) == 0 {
		return "a value"
	}
	return strings.Join(parts, ", ")
}
