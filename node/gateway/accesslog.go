package gateway

import (
	"io"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidwall/gjson"
)

const (
	// maxLogBacklog is the most bytes that wait to be written; lines beyond are dropped.
	maxLogBacklog = 4 << 20
	// logBatch is the backlog that is written without waiting for more.
	logBatch = 64 << 10
	// logDelay is how long a line waits for others to be written with it.
	logDelay = 50 * time.Millisecond
)

// accessLog writes lines in batches from one goroutine. Appending a line is a copy under a short lock and never waits for
// the writer: when it can't keep up, lines are dropped and counted.
type accessLog struct {
	w       io.Writer
	wake    chan struct{} // capacity 1: there is something to write
	full    chan struct{} // capacity 1: there is a batch to write
	quit    chan struct{}
	done    chan struct{}
	dropped atomic.Uint64
	failed  atomic.Uint64 // writes that failed

	mu      sync.Mutex
	backlog []byte // guarded by mu
	closed  bool   // guarded by mu
}

func newAccessLog(w io.Writer) *accessLog {
	l := &accessLog{
		w:    w,
		wake: make(chan struct{}, 1), full: make(chan struct{}, 1),
		quit: make(chan struct{}), done: make(chan struct{}),
	}
	go l.run()
	return l
}

// append takes over a copy of line, which ends in a line's end.
func (l *accessLog) append(line []byte) {
	l.mu.Lock()
	if l.closed || len(l.backlog)+len(line) > maxLogBacklog {
		l.mu.Unlock()
		l.dropped.Add(1)
		return
	}
	before := len(l.backlog)
	l.backlog = append(l.backlog, line...)
	after := len(l.backlog)
	l.mu.Unlock()
	if before == 0 {
		signal(l.wake)
	}
	if before < logBatch && after >= logBatch {
		signal(l.full)
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (l *accessLog) run() {
	defer close(l.done)
	delay := time.NewTimer(logDelay)
	defer delay.Stop()
	var spare []byte
	for {
		select {
		case <-l.wake:
		case <-l.quit:
			l.flush(spare)
			return
		}
		delay.Reset(logDelay)
		select {
		case <-delay.C:
		case <-l.full:
		case <-l.quit:
		}
		spare = l.flush(spare)
	}
}

// flush writes the backlog, puts spare in its place and returns the written one for reuse.
func (l *accessLog) flush(spare []byte) []byte {
	l.mu.Lock()
	batch := l.backlog
	l.backlog = spare[:0]
	l.mu.Unlock()
	if len(batch) > 0 {
		if _, err := l.w.Write(batch); err != nil {
			l.failed.Add(1)
		}
	}
	return batch
}

// close writes what is left and ends the goroutine. It may be called once.
func (l *accessLog) close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	close(l.quit)
	<-l.done
}

var lines = sync.Pool{New: func() any { return new([1024]byte) }}

// log writes the exchange's line.
func (x *exchange) log(end time.Time) {
	l := x.g.log
	if l == nil {
		return
	}
	space := lines.Get().(*[1024]byte)
	l.append(x.appendLine(space[:0], end))
	lines.Put(space)
}

// appendLine appends the exchange as one line of JSON. It holds no query and no credential.
func (x *exchange) appendLine(b []byte, end time.Time) []byte {
	b = append(b, `{"time":"`...)
	b = end.UTC().AppendFormat(b, "2006-01-02T15:04:05.000000Z07:00")
	b = append(b, `","id":"`...)
	b = append(b, x.id...)
	b = append(b, `","method":`...)
	b = gjson.AppendJSONString(b, x.r.Method)
	b = append(b, `,"host":`...)
	b = gjson.AppendJSONString(b, x.r.Host)
	b = append(b, `,"path":`...)
	b = gjson.AppendJSONString(b, x.path)
	b = appendInt(b, `,"status":`, int64(x.status))
	b = appendInt(b, `,"bytes":`, x.bytes)
	b = appendInt(b, `,"duration_us":`, end.Sub(x.start).Microseconds())
	b = append(b, `,"client":`...)
	b = gjson.AppendJSONString(b, clientIP(x.r.RemoteAddr))
	if x.target != nil {
		b = append(b, `,"target":"`...)
		b = append(b, x.target.ref...)
		b = append(b, '"')
	}
	if x.app != nil {
		b = append(b, `,"app":`...)
		b = gjson.AppendJSONString(b, x.app.Name)
		b = append(b, `,"app_id":`...)
		b = gjson.AppendJSONString(b, x.app.ID)
		b = append(b, `,"token":`...)
		b = gjson.AppendJSONString(b, x.app.TokenID)
	}
	if x.upstream != nil {
		b = append(b, `,"upstream":`...)
		b = gjson.AppendJSONString(b, x.upstream.host)
	}
	if x.model != "" {
		b = append(b, `,"model":`...)
		b = gjson.AppendJSONString(b, x.model)
	}
	if x.code != "" {
		b = append(b, `,"error":"`...)
		b = append(b, x.code...)
		b = append(b, '"')
	}
	if x.cause != nil {
		b = append(b, `,"cause":`...)
		b = gjson.AppendJSONString(b, x.cause.Error())
	}
	if u := x.scan.Usage(); u.Reported {
		b = appendInt(b, `,"prompt_tokens":`, u.Prompt)
		b = appendInt(b, `,"completion_tokens":`, u.Completion)
	}
	if x.aborted {
		b = append(b, `,"aborted":true`...)
	}
	return append(b, "}\n"...)
}

func appendInt(b []byte, key string, n int64) []byte {
	return strconv.AppendInt(append(b, key...), n, 10)
}
