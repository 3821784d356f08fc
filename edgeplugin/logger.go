package edgeplugin

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"gw/edgeplugin/pluginv1"
)

// Logger writes into gw's log. Its methods take a message and alternating keys and values, never block on gw, and may be
// called from any goroutine. A line has at most 4 KiB and 32 keys: what is more is cut, and the line has the key "cut" then.
// gw drops lines beyond 100 a second and says so in its log.
type Logger struct{ host *host }

// Debug writes what only the plugin's author wants to know.
func (l Logger) Debug(msg string, args ...any) { l.write(slog.LevelDebug, msg, args) }

// Info writes what happened.
func (l Logger) Info(msg string, args ...any) { l.write(slog.LevelInfo, msg, args) }

// Warn writes what somebody should look at.
func (l Logger) Warn(msg string, args ...any) { l.write(slog.LevelWarn, msg, args) }

// Error writes what somebody must act on.
func (l Logger) Error(msg string, args ...any) { l.write(slog.LevelError, msg, args) }

func (l Logger) write(level slog.Level, msg string, args []any) {
	if l.host == nil {
		return
	}
	left, cut := maxLine, false
	part := func(s string) string {
		s, short := sendable(s, left)
		left, cut = left-len(s), cut || short
		return s
	}
	line := &pluginv1.LogLine{Level: int32(level), Message: part(msg)}
	if len(args) > maxFields {
		args, cut = args[:maxFields], true
	}
	for _, a := range args {
		line.Fields = append(line.Fields, part(fmt.Sprint(a)))
	}
	if cut {
		line.Fields = line.Fields[:len(line.Fields)&^1] // what has no pair is not logged, and would take the key's place
		line.Fields = append(line.Fields, "cut", "true")
	}
	l.host.log.add(line)
}

const (
	// maxLine and maxFields bound a line to what gw writes of it with the "cut" that tells of the bound.
	maxLine   = 4<<10 - 200
	maxFields = 62
	// maxQueuedLines bounds what waits for gw, what is more is dropped; maxSentLines what is in one message to it.
	maxQueuedLines = 1000
	maxSentLines   = 200
)

// logQueue brings lines to gw in batches, from one goroutine that runs while there are any.
type logQueue struct {
	client pluginv1.HostClient

	mu      sync.Mutex
	lines   []*pluginv1.LogLine
	dropped int
	sending chan struct{} // closed when the goroutine is done; nil: there is none
}

func newLogQueue(client pluginv1.HostClient) *logQueue { return &logQueue{client: client} }

func (q *logQueue) add(line *pluginv1.LogLine) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.lines) >= maxQueuedLines {
		q.dropped++
		return
	}
	q.lines = append(q.lines, line)
	if q.sending == nil {
		q.sending = make(chan struct{})
		go q.send(q.sending)
	}
}

func (q *logQueue) send(done chan struct{}) {
	defer close(done)
	for {
		q.mu.Lock()
		n := min(len(q.lines), maxSentLines)
		lines := slices.Clip(q.lines[:n])
		if q.dropped > 0 {
			lines = append(lines, &pluginv1.LogLine{Level: int32(slog.LevelWarn), Message: "lines were dropped by the plugin", Fields: []string{"lines", fmt.Sprint(q.dropped)}})
		}
		q.lines, q.dropped = q.lines[n:], 0
		if len(lines) == 0 {
			q.sending = nil
			q.mu.Unlock()
			return
		}
		q.mu.Unlock()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		// Whoever can't log can't say so either.
		_, _ = q.client.Log(ctx, &pluginv1.LogRequest{Lines: lines})
		cancel()
	}
}

// flush waits until what was added has been sent, or ctx ends.
func (q *logQueue) flush(ctx context.Context) {
	q.mu.Lock()
	done := q.sending
	q.mu.Unlock()
	if done == nil {
		return
	}
	select {
	case <-done:
	case <-ctx.Done():
	}
}
