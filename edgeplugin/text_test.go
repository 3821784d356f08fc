package edgeplugin_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"gw/edgeplugin"
	"gw/edgeplugin/edgeplugintest"
)

// odd is a plugin that says text wherever it can.
type odd struct {
	edgeplugin.BasePlugin
	text  string
	start func(edgeplugin.Context)
}

func (o *odd) Initialize(ctx edgeplugin.Context, _ map[string]string) error {
	if o.start != nil {
		o.start(ctx)
	}
	return nil
}

func (o *odd) HandlePreAuth(edgeplugin.Context, *edgeplugin.EnrichedRequest) (*edgeplugin.PluginResponse, error) {
	return nil, errors.New(o.text)
}

func (o *odd) OnStreamChunk(edgeplugin.Context, *edgeplugin.StreamChunk) (*edgeplugin.StreamChunkResponse, error) {
	return &edgeplugin.StreamChunkResponse{Block: true, ErrorMessage: o.text}, nil
}

func (o *odd) OnResponse(edgeplugin.Context, *edgeplugin.EnrichedResponse) (*edgeplugin.PluginResponse, error) {
	return &edgeplugin.PluginResponse{Block: true, ErrorMessage: o.text}, nil
}

func (o *odd) Health(edgeplugin.Context) error { return errors.New(o.text) }

func (o *odd) AcceptEdgePayload(edgeplugin.Context, *edgeplugin.EdgePayload) (bool, error) {
	return true, errors.New(o.text)
}

func TestGwGetsTextsWhateverIsInThem(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"bytes that are no UTF-8", "a\xff\xfeb", "a\uFFFDb"},
		{"too much", strings.Repeat("long", 5<<20), strings.Repeat("long", 250) + " … (cut)"},
		{"too much, at a character", "x" + strings.Repeat("é", 1<<20), "x" + strings.Repeat("é", 499) + " … (cut)"},
		{"too much of what grows", strings.Repeat("\xffa", 1000), strings.Repeat("\uFFFDa", 250) + " … (cut)"},
		{"nothing but continuations", strings.Repeat("\x80", 2000), "\uFFFD … (cut)"},
		{"nothing", "", "an error without a message"},
	} {
		t.Run(c.name, func(t *testing.T) {
			run := edgeplugintest.Start(t, &odd{BasePlugin: base("odd"), text: c.text}, edgeplugintest.Options{})
			check := func(where, got string) {
				t.Helper()
				if got != c.want {
					t.Errorf("%s: got %.80q… (%d bytes), want %.80q… (%d)", where, got, len(got), c.want, len(c.want))
				}
			}
			check("a hook's error", fmt.Sprint(run.Do(&edgeplugin.EnrichedRequest{}).Err))
			check("health", run.Health())
			handled, err := run.Accept(&edgeplugin.EdgePayload{})
			check("a payload's error", fmt.Sprint(err))
			if !handled {
				t.Error("the payload is not handled")
			}
			if _, ok := run.Chunk(&edgeplugin.StreamChunk{}); ok {
				t.Error("the stream goes on")
			}
		})
	}
}

func TestALineOfAPluginCostsNoOther(t *testing.T) {
	const n = 900
	run := edgeplugintest.Start(t, &odd{BasePlugin: base("odd"), start: func(ctx edgeplugin.Context) {
		l := ctx.Services.Logger()
		l.Info("bytes", "key\xff", "\xff")
		l.Info("long", "value", strings.Repeat("x", 10<<20), "lost", "y")
		l.Info("many", make([]any, 1000)...)
		l.Info(strings.Repeat("m", 10_000), "lonely")
		for range n {
			l.Info(strings.Repeat("m", 10_000))
		}
	}}, edgeplugintest.Options{})
	run.Shutdown()
	log := run.Log()
	if len(log) != n+4 {
		t.Fatalf("%d lines, want %d", len(log), n+4)
	}
	if want := "bytes key\uFFFD \uFFFD"; log[0] != want {
		t.Errorf("got %q, want %q", log[0], want)
	}
	if strings.HasSuffix(log[3], "  cut true") {
		t.Error("an argument without a pair takes the place of the key")
	}
	for _, line := range log[1:] {
		if len(line) > 4<<10 || !utf8.ValidString(line) || !strings.HasSuffix(line, " cut true") {
			t.Fatalf("a line of %d bytes, ends in %q", len(line), line[max(0, len(line)-20):])
		}
	}
}
