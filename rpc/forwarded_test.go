package rpc

import (
	"encoding/base64"
	"reflect"
	"strings"
	"testing"
	"time"

	"gw/rpc/identity"
)

var passedOn = []forwarded{
	{},
	{address: "10.0.0.1"},
	{address: "10.0.0.1", session: make([]byte, 32)},
	{user: "hub/1", role: RoleAdmin},
	{user: "ann", role: RoleOperator, namespaces: []string{"a", "b"}, address: "::1"},
	{hub: "0123", address: "10.0.0.2"},
	{address: "10.0.0.3:55", edge: &caller{Edge: identity.Edge{ClusterID: "c", Namespace: "default", ID: "e1"},
		serial: "ab12", lineage: 1<<48 + 7, notAfter: time.Unix(0, 1_700_000_000_000_000_000), address: "10.0.0.3:55"}},
}

func TestAPrincipalSurvivesTheHeader(t *testing.T) {
	for _, want := range passedOn {
		s, err := want.encode()
		must(t, err)
		got, err := decodeForwarded(s)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, %v; want %+v", got, err, want)
		}
	}
	long := forwarded{user: "ann", role: RoleViewer, namespaces: []string{strings.Repeat("x", maxPrincipal)}}
	if _, err := long.encode(); err == nil {
		t.Error("a principal longer than a header was written")
	}
}

func TestAPrincipalIsReadStrictly(t *testing.T) {
	session := base64.StdEncoding.EncodeToString(make([]byte, 32))
	for name, text := range map[string]string{
		"nothing":             ``,
		"no JSON":             `x`,
		"no version":          `{}`,
		"a later version":     `{"v":2}`,
		"an unknown field":    `{"v":1,"root":true}`,
		"something after it":  `{"v":1}{"v":1}`,
		"an unknown role":     `{"v":1,"user":"ann","role":"god"}`,
		"a user without role": `{"v":1,"user":"ann"}`,
		"a role without user": `{"v":1,"role":"admin"}`,
		"a short session":     `{"v":1,"session":"AA=="}`,
		"two callers":         `{"v":1,"user":"ann","role":"admin","hub":"h"}`,
		"three callers":       `{"v":1,"session":"` + session + `","hub":"h","edge":{"cluster":"c","namespace":"default","id":"e","serial":"1"}}`,
		"half an edge":        `{"v":1,"edge":{"cluster":"c","namespace":"default"}}`,
		"a namespace":         `{"v":1,"edge":{"cluster":"c","namespace":"No Name","id":"e","serial":"1"}}`,
	} {
		if f, err := decodeForwarded(base64.RawURLEncoding.EncodeToString([]byte(text))); err == nil {
			t.Errorf("%s: read as %+v", name, f)
		}
	}
	for _, s := range []string{"{}", "====", strings.Repeat("A", maxPrincipal+1)} {
		if _, err := decodeForwarded(s); err == nil {
			t.Errorf("%.20q was read", s)
		}
	}
}

func FuzzDecodeForwarded(f *testing.F) {
	for _, p := range passedOn {
		s, err := p.encode()
		must(f, err)
		f.Add(s)
	}
	f.Add(base64.RawURLEncoding.EncodeToString([]byte(`{"v":1,"user":"ann","role":"god"}`)))
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		p, err := decodeForwarded(s)
		if err != nil {
			return
		}
		if p.user == "" && p.role != 0 || p.session != nil && len(p.session) != 32 {
			t.Fatalf("%q was read as %+v", s, p)
		}
		again, err := p.encode()
		if err != nil {
			t.Fatalf("%+v can't be written: %v", p, err)
		}
		if q, err := decodeForwarded(again); err != nil || !reflect.DeepEqual(p, q) {
			t.Fatalf("%+v became %+v, %v", p, q, err)
		}
	})
}
