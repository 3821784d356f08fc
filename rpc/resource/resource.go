// Package resource defines what a configuration object is wherever it crosses a boundary: its strict form in files and
// requests, its canonical bytes, its digest, and the checksum of a manifest of many.
package resource

import "regexp"

const (
	// Global is the namespace whose resources every edge gets, under its own namespace's. No edge lives in it.
	Global = "global"
	// Default is the namespace of whatever names none.
	Default = "default"
	// APIVersion is the version that resource files name.
	APIVersion = "gw/v1"
)

// MaxSpec is the most bytes the canonical form of one spec may have, so that it fits one log entry with its envelope.
const MaxSpec = 512 << 10

// Key identifies a resource in the working configuration.
type Key struct{ Kind, Namespace, Name string }

// String returns kind and name, "API/orders": the namespace is shown where it matters.
func (k Key) String() string { return k.Kind + "/" + k.Name }

var validName = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$`)

// NameRule says in words what ValidName accepts.
const NameRule = `1 to 63 of a-z, 0-9, ".", "_" and "-", with a letter or digit at both ends`

// ValidName reports whether s can name a resource, a namespace, an app, a secret or an edge.
func ValidName(s string) bool { return len(s) <= 63 && validName.MatchString(s) }
