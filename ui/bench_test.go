package ui

import (
	"net/url"
	"testing"
)

// BenchmarkLook is what a stream does after a wake: the view of 100 rows, and their fingerprints.
func BenchmarkLook(b *testing.B) {
	h := newHub().fleetOf(500)
	k := &console{Config: Config{Fleet: h, Principal: h.principal, Errors: nil}}
	ctx, _, err := h.principal(b.Context(), h.session(b, "viewer").Value)
	if err != nil {
		b.Fatal(err)
	}
	address, _ := url.Parse("/edges")
	for b.Loop() {
		picture, err := k.picture(ctx, &visitor{ctx: ctx}, address, h.now())
		if err != nil {
			b.Fatal(err)
		}
		printsOf(picture)
	}
}
