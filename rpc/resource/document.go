package resource

import (
	"strings"

	"google.golang.org/protobuf/proto"

	"gw/rpc/gwv1"
)

// Document is one resource as it was read: complete, valid by itself, its defaults explicit.
type Document struct {
	Key
	// Labels select and show; no edge loads them.
	Labels map[string]string
	// Spec is the kind's message, such as *gwv1.APISpec. It must not be changed.
	Spec proto.Message

	file      string
	positions map[string]position // field path → where it stands
}

type position struct{ line, column int }

// File returns the name of the file the document was read from, "" if it was none.
func (d *Document) File() string { return d.file }

// Canonical returns the bytes the spec is stored and loaded as, and their digest.
func (d *Document) Canonical() (spec []byte, digest Digest) {
	spec, err := proto.MarshalOptions{Deterministic: true}.Marshal(d.Spec)
	if err != nil {
		// Only a missing proto2 field or invalid UTF-8 can cause it; reading a document excludes both.
		panic("marshal a valid spec: " + err.Error())
	}
	return spec, DigestOf(d.Kind, d.Name, spec)
}

// Proto returns the document in the shape it has in requests and files, with its defaults explicit.
func (d *Document) Proto() *gwv1.Resource {
	return &gwv1.Resource{
		ApiVersion: APIVersion,
		Kind:       d.Kind,
		Metadata:   &gwv1.ResourceMetadata{Name: d.Name, Namespace: d.Namespace, Labels: d.Labels},
		Spec:       Render(d.Spec),
	}
}

// Locate returns the line and column, from 1, of a field such as "spec.upstreams[0].url" in the document's file, or
// else of the nearest field around it that is there. Both are 0 if the document did not come from a file.
func (d *Document) Locate(field string) (line, column int) {
	for {
		if p, ok := d.positions[field]; ok {
			return p.line, p.column
		}
		if field == "" {
			return 0, 0
		}
		field = field[:max(0, strings.LastIndexAny(field, ".["))]
	}
}

// errorAt returns an error about a field, with where it stands.
func (d *Document) errorAt(field, code, message, expected string) *Error {
	line, column := d.Locate(field)
	return &Error{
		File: d.file, Line: line, Column: column,
		Kind: d.Kind, Namespace: d.Namespace, Name: d.Name,
		Field: field, Code: code, Message: message, Expected: expected,
	}
}
