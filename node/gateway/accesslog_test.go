package gateway

import (
	"bytes"
	"sync"
	"testing"
)

// gate is a writer that a test holds shut.
type gate struct {
	entered chan struct{}
	open    chan struct{}
	mu      sync.Mutex
	b       bytes.Buffer
}

func (g *gate) Write(p []byte) (int, error) {
	g.entered <- struct{}{}
	<-g.open
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.b.Write(p)
}

func TestAccessLogDropsRatherThanBlocks(t *testing.T) {
	g := &gate{entered: make(chan struct{}, 16), open: make(chan struct{})}
	l := newAccessLog(g)
	line := append(bytes.Repeat([]byte("x"), 1<<20-1), '\n')
	l.append(line)
	<-g.entered // the writer hangs with one line in hand
	for range 6 {
		l.append(line)
	}
	if n := l.droppedLines(); n != 2 {
		t.Errorf("dropped %d lines, want what is over 4 MiB: 2", n)
	}
	close(g.open)
	l.close()
	if n := g.b.Len(); n != 5<<20 {
		t.Errorf("wrote %d bytes", n)
	}
	l.append(line)
	if l.droppedLines() != 3 {
		t.Error("a line after close is not counted as dropped")
	}
}

func TestAccessLogKeepsLinesWhole(t *testing.T) {
	var b lockedBuffer
	l := newAccessLog(&b)
	var callers sync.WaitGroup
	for range 8 {
		callers.Go(func() {
			for range 5000 {
				l.append([]byte(`{"some":"line","of":"usual length, more or less"}` + "\n"))
			}
		})
	}
	callers.Wait()
	l.close()
	lines := bytes.Split(bytes.TrimSpace(b.b.Bytes()), []byte("\n"))
	if len(lines)+int(l.droppedLines()) != 40_000 {
		t.Errorf("%d lines and %d dropped", len(lines), l.droppedLines())
	}
	for _, line := range lines {
		if string(line) != `{"some":"line","of":"usual length, more or less"}` {
			t.Fatalf("line %q", line)
		}
	}
}
