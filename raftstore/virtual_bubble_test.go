package raftstore

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
)

// bubble runs f in a bubble of virtual time. Raft forgets some futures when it shuts down (hashicorp/raft#498), and the
// goroutine that waits for such an answer lasts as long as the process (answerOf says so); so does a transfer of
// leadership that does not end (hashicorp/raft#696). Any other goroutine that outlives the bubble fails the test.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		left := outliving()
		if !strings.Contains(fmt.Sprint(p), "main bubble goroutine has exited") || len(left) > 0 {
			t.Fatalf("%v\n%s", p, strings.Join(left, "\n\n"))
		}
	}()
	synctest.Test(t, f)
}

// outliving are the stacks of goroutines in bubbles, but for those that Raft is known to leave behind.
func outliving() []string {
	buf := make([]byte, 1<<20)
	n := runtime.Stack(buf, true)
	for ; n == len(buf); n = runtime.Stack(buf, true) {
		buf = make([]byte, 2*len(buf))
	}
	var left []string
	for g := range strings.SplitSeq(string(buf[:n]), "\n\n") {
		header, stack, _ := strings.Cut(g, "\n")
		forgotten := strings.Contains(stack, "raftstore.answerOf") && strings.Contains(stack, "deferError).Error") ||
			strings.Contains(stack, "raft.(*Raft).leadershipTransfer") || strings.Contains(stack, "raft.(*Raft).leaderLoop.func")
		if strings.Contains(header, "synctest bubble") && !forgotten {
			left = append(left, g)
		}
	}
	return left
}
