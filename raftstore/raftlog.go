package raftstore

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"

	"github.com/hashicorp/go-hclog"
)

// raftLogger lets Raft log through slog. What Raft calls information is for somebody who debugs Raft; what an operator
// should know of it (leading, not leading, failed) the store says itself.
type raftLogger struct {
	log     *slog.Logger
	name    string
	args    []any
	repeats *repeats // nil: every complaint is logged
}

var _ hclog.Logger = (*raftLogger)(nil)

func levelOf(l hclog.Level) slog.Level {
	switch l {
	case hclog.Error:
		return slog.LevelError
	case hclog.Warn:
		return slog.LevelWarn
	case hclog.Trace:
		return slog.LevelDebug - 4
	}
	return slog.LevelDebug
}

func (r *raftLogger) enabled(l hclog.Level) bool {
	return r.log.Enabled(context.Background(), levelOf(l))
}

// Log implements hclog.Logger.
func (r *raftLogger) Log(l hclog.Level, msg string, args ...any) {
	if !r.enabled(l) {
		return
	}
	var suppressed int
	if peer, ok := peerOf(args); ok && r.repeats != nil && (l == hclog.Warn || l == hclog.Error) {
		var due bool
		if suppressed, due = r.repeats.note(complaint{r.name + ": " + msg, peer}); !due {
			return
		}
	}
	plain := make([]any, len(args), len(args)+2)
	for i, a := range args {
		if f, ok := a.(hclog.Format); ok && len(f) > 0 {
			a = fmt.Sprintf(fmt.Sprint(f[0]), f[1:]...)
		}
		plain[i] = a
	}
	if suppressed > 0 {
		plain = append(plain, "suppressed", suppressed)
	}
	r.log.Log(context.Background(), levelOf(l), r.name+": "+msg, plain...)
}

func (r *raftLogger) Trace(msg string, args ...any) { r.Log(hclog.Trace, msg, args...) }
func (r *raftLogger) Debug(msg string, args ...any) { r.Log(hclog.Debug, msg, args...) }
func (r *raftLogger) Info(msg string, args ...any)  { r.Log(hclog.Info, msg, args...) }
func (r *raftLogger) Warn(msg string, args ...any)  { r.Log(hclog.Warn, msg, args...) }
func (r *raftLogger) Error(msg string, args ...any) { r.Log(hclog.Error, msg, args...) }

func (r *raftLogger) IsTrace() bool { return r.enabled(hclog.Trace) }
func (r *raftLogger) IsDebug() bool { return r.enabled(hclog.Debug) }
func (r *raftLogger) IsInfo() bool  { return r.enabled(hclog.Info) }
func (r *raftLogger) IsWarn() bool  { return r.enabled(hclog.Warn) }
func (r *raftLogger) IsError() bool { return r.enabled(hclog.Error) }

func (r *raftLogger) ImpliedArgs() []any { return r.args }
func (r *raftLogger) Name() string       { return r.name }

func (r *raftLogger) With(args ...any) hclog.Logger {
	c := *r
	c.log, c.args = r.log.With(args...), append(r.args[:len(r.args):len(r.args)], args...)
	return &c
}

func (r *raftLogger) Named(name string) hclog.Logger { return r.ResetNamed(r.name + "." + name) }

func (r *raftLogger) ResetNamed(name string) hclog.Logger {
	c := *r
	c.name = name
	return &c
}

// SetLevel does nothing: slog's handler has the level.
func (r *raftLogger) SetLevel(hclog.Level) {}

func (r *raftLogger) GetLevel() hclog.Level { return hclog.NoLevel }

func (r *raftLogger) StandardLogger(*hclog.StandardLoggerOptions) *log.Logger {
	return slog.NewLogLogger(r.log.Handler(), slog.LevelDebug)
}

func (r *raftLogger) StandardWriter(o *hclog.StandardLoggerOptions) io.Writer {
	return r.StandardLogger(o).Writer()
}
