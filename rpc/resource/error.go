package resource

import (
	"fmt"
	"strings"

	"gw/rpc/gwv1"
)

// Codes of errors, stable words for programs.
const (
	CodeSyntax       = "syntax"
	CodeUnknownField = "unknown_field"
	CodeInvalid      = "invalid"
	CodeConflict     = "conflict"
	CodeTooOld       = "too_old"
	CodeTooLarge     = "too_large"
)

// Error is one thing wrong with one field of one resource.
type Error struct {
	// Where in which file; File is empty and the numbers are 0 if it did not come from one. Both count from 1.
	File         string
	Line, Column int
	// What it is about; all but Message may be empty.
	Kind, Namespace, Name string
	// A path such as "spec.upstreams[0].url".
	Field string
	// One of the Code constants.
	Code string
	// What is wrong, and what would be right.
	Message, Expected string
}

// Error returns "FILE:LINE:COL kind/name field: what is wrong, expected what is expected", less what is unknown.
func (e *Error) Error() string {
	var b strings.Builder
	if e.File != "" {
		fmt.Fprintf(&b, "%s:%d:%d ", e.File, e.Line, e.Column)
	}
	if e.Kind != "" || e.Name != "" {
		fmt.Fprintf(&b, "%s/%s ", e.Kind, e.Name)
	}
	b.WriteString(e.Field)
	text := strings.TrimSuffix(b.String(), " ")
	if text != "" {
		text += ": "
	}
	text += e.Message
	if e.Expected != "" {
		text += ", expected " + e.Expected
	}
	return text
}

// Errors is everything found wrong at once.
type Errors []*Error

// Error returns one line per error.
func (es Errors) Error() string {
	lines := make([]string, len(es))
	for i, e := range es {
		lines[i] = e.Error()
	}
	return strings.Join(lines, "\n")
}

// Violations returns the errors as they travel in an error's detail.
func (es Errors) Violations() []*gwv1.Violation {
	vs := make([]*gwv1.Violation, len(es))
	for i, e := range es {
		vs[i] = &gwv1.Violation{Kind: e.Kind, Namespace: e.Namespace, Name: e.Name, Field: e.Field, Code: e.Code, Message: e.Message, Expected: e.Expected}
	}
	return vs
}

// orNil returns the errors as an error, nil if there are none.
func (es Errors) orNil() error {
	if len(es) == 0 {
		return nil
	}
	return es
}
