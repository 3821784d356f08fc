package pluginhost

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"
)

// What a plugin may write into the log.
const (
	linesPerSecond = 100
	lineBurst      = 200
	maxLine        = 4 << 10 // bytes, fields included
	maxFields      = 32
	maxStreamLine  = maxLine - 64 // leaves room for the fields
)

// cutField is in lines of which there was more.
var cutField = slog.Bool("cut", true)

// output is what a plugin's processes write, on its way into the log.
type output struct {
	log *slog.Logger
	now func() time.Time

	mu      sync.Mutex
	tokens  float64
	at      time.Time // when tokens was counted
	dropped int
	last    string // line written to stderr
}

func newOutput(log *slog.Logger) *output {
	return &output{log: log, now: time.Now, tokens: lineBurst}
}

// take reports whether another line may be written, and how many were not since the last one.
func (o *output) take() (dropped int, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := o.now()
	if !o.at.IsZero() {
		o.tokens = min(lineBurst, o.tokens+now.Sub(o.at).Seconds()*linesPerSecond)
	}
	o.at = now
	if o.tokens < 1 {
		o.dropped++
		return 0, false
	}
	o.tokens--
	dropped, o.dropped = o.dropped, 0
	return dropped, true
}

// forget begins anew with what lastWords returns.
func (o *output) forget() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.last = ""
}

// lastWords returns ", and said …" with the last line of stderr, "" without one: why a process ended stands there.
func (o *output) lastWords() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.last == "" {
		return ""
	}
	return ", and said " + strconv.Quote(o.last)
}

// line writes a line of the plugin's logger. One that is cut has a field that says so.
func (o *output) line(level slog.Level, message string, fields []string) {
	dropped, ok := o.take()
	if !ok {
		return
	}
	if dropped > 0 {
		o.log.Warn("the plugin writes more than the log takes; lines were dropped", "lines", dropped)
	}
	left, short := maxLine, false
	cut := func(s string) string {
		s = strings.ToValidUTF8(s, "\uFFFD")
		clipped := clip(s, left)
		left -= len(clipped)
		short = short || len(clipped) < len(s)
		return clipped
	}
	message = cut(message)
	var attrs []any
	for i := 0; i+1 < len(fields); i += 2 {
		if i == 2*maxFields || left == 0 {
			short = true
			break
		}
		attrs = append(attrs, slog.String(cut(fields[i]), cut(fields[i+1])))
	}
	if short {
		attrs = append(attrs, cutField)
	}
	o.log.Log(context.Background(), level, message, slog.Group("said", attrs...))
}

// stream returns a writer whose lines go to the log.
func (o *output) stream(name string) io.Writer { return &lineWriter{output: o, name: name} }

// lineWriter cuts what is written into lines. It takes no more memory than one line may have.
type lineWriter struct {
	output *output
	name   string

	mu   sync.Mutex
	line []byte
	cut  bool // the rest of the line is passed over
}

// Write takes everything.
func (w *lineWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := len(p)
	for len(p) > 0 {
		end := bytes.IndexByte(p, '\n')
		piece := p
		if end >= 0 {
			piece = p[:end]
		}
		if room := maxStreamLine - len(w.line); len(piece) > room {
			w.line, w.cut = append(w.line, piece[:room]...), true
		} else if !w.cut {
			w.line = append(w.line, piece...)
		}
		if end < 0 {
			break
		}
		if text := strings.TrimRight(string(w.line), "\r"); text != "" {
			if w.name == "stderr" {
				w.output.mu.Lock()
				w.output.last = clip(text, 256)
				w.output.mu.Unlock()
			}
			fields := []string{"stream", w.name}
			if w.cut {
				fields = append(fields, cutField.Key, "true")
			}
			w.output.line(slog.LevelInfo, text, fields)
		}
		w.line, w.cut, p = w.line[:0], false, p[end+1:]
	}
	return n, nil
}
