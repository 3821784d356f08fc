package edgestore

import (
	"bufio"
	"context"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"gw/rpc/gwv1"
)

// spoolDir, in the environment, makes this binary a process that sends and delivers payloads until it is killed; the
// variable's value is the directory, a comma, and what its payloads' numbers begin with.
const spoolDir = "EDGESTORE_TEST_SPOOL_DIR"

// sendForever tells of every payload whose Send returned, and of every payload before it settles it: what the hub commits
// before its answer arrives.
func sendForever(where string) {
	dir, round, _ := strings.Cut(where, ",")
	s, err := OpenSpool(SpoolConfig{Dir: dir})
	if err != nil {
		fmt.Println("error", err)
		return
	}
	var printing sync.Mutex
	tell := func(format string, args ...any) {
		printing.Lock()
		defer printing.Unlock()
		fmt.Printf(format+"\n", args...)
	}
	for sender := range 8 {
		go func() {
			for n := 0; ; n++ {
				payload := fmt.Sprintf("%s/%d/%d", round, sender, n)
				if _, err := s.Send(context.Background(), uint32(1+sender%2), []byte(payload), "", nil); err != nil {
					tell("error %v", err)
					return
				}
				tell("sent %s", payload)
			}
		}()
	}
	for {
		payloads, settle, err := s.Batch(context.Background(), nil)
		if err != nil {
			tell("error %v", err)
			return
		}
		var outcomes []*gwv1.PayloadOutcome
		for _, p := range payloads {
			tell("took %x %d %d %s", p.StoreId, p.PluginId, p.Sequence, p.Payload)
			outcomes = append(outcomes, &gwv1.PayloadOutcome{Result: gwv1.PayloadResult_PAYLOAD_RESULT_HANDLED})
		}
		if err := settle(outcomes); err != nil {
			tell("error %v", err)
			return
		}
	}
}

// ledger is the hub: it takes each number of a store and plugin once.
type ledger struct {
	t     *testing.T
	marks map[string]uint64
	took  map[string]int
	sent  map[string]bool
}

func (l *ledger) take(store string, plugin uint32, sequence uint64, payload string) {
	name := fmt.Sprint(store, "/", plugin)
	if sequence <= l.marks[name] {
		return
	}
	l.marks[name] = sequence
	l.took[payload]++
}

// hear reads what a child told; a line that was cut off by the kill says nothing.
func (l *ledger) hear(line string) {
	words := strings.Fields(line)
	switch {
	case len(words) == 2 && words[0] == "sent":
		l.sent[words[1]] = true
	case len(words) == 5 && words[0] == "took":
		plugin, _ := strconv.ParseUint(words[2], 10, 32)
		sequence, _ := strconv.ParseUint(words[3], 10, 64)
		l.take(words[1], uint32(plugin), sequence, words[4])
	case len(words) > 0 && words[0] == "error":
		l.t.Error(line)
	}
}

func TestPayloadsSurviveKillsAndAreTakenOnce(t *testing.T) {
	dir := t.TempDir()
	l := &ledger{t: t, marks: map[string]uint64{}, took: map[string]int{}, sent: map[string]bool{}}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for round := range 12 {
		child := exec.Command(exe)
		child.Env = append(os.Environ(), fmt.Sprintf("%s=%s,%d", spoolDir, dir, round))
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewReader(out)
		for n, kill := 0, 20+rand.IntN(600); ; n++ {
			line, err := lines.ReadString('\n')
			if err != nil {
				break // what was told before the kill is read to its end
			}
			l.hear(strings.TrimSuffix(line, "\n"))
			if n == kill {
				child.Process.Kill()
			}
		}
		child.Wait()
		if round == 6 {
			copyOfRunningSpool(t, dir, l)
		}
	}
	s := mustSpool(t, dir)
	l.drain(s)
	for payload := range l.sent {
		if l.took[payload] != 1 {
			t.Errorf("payload %s was accepted, and taken %d times", payload, l.took[payload])
		}
	}
	for payload, n := range l.took {
		if n != 1 {
			t.Errorf("payload %s was taken %d times", payload, n)
		}
	}
	if len(l.sent) < 100 {
		t.Errorf("only %d payloads were sent", len(l.sent))
	}
	t.Logf("%d payloads accepted, %d taken, %d store and plugin pairs", len(l.sent), len(l.took), len(l.marks))
}

// copyOfRunningSpool lets a copy of the file live on as an edge of its own: it sends what the original has pending too,
// which counts once, and payloads of its own, which all count.
func copyOfRunningSpool(t *testing.T, dir string, l *ledger) {
	t.Helper()
	clone := t.TempDir()
	for _, suffix := range []string{"", "-wal"} {
		data, err := os.ReadFile(dir + "/spool.db" + suffix)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(clone+"/spool.db"+suffix, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := mustSpool(t, clone)
	for i := range 20 {
		payload := fmt.Sprint("clone/", i)
		mustSend(t, s, 1, payload)
		l.sent[payload] = true
	}
	l.drain(s)
}

func (l *ledger) drain(s *Spool) {
	l.t.Helper()
	for until := time.Now().Add(time.Minute); time.Now().Before(until); {
		batch := mustNext(l.t, s)
		if len(batch) == 0 {
			return
		}
		for _, p := range batch {
			l.take(hex.EncodeToString(p.StoreId), p.PluginId, p.Sequence, string(p.Payload))
		}
		mustSettle(l.t, s, batch, handled)
	}
	l.t.Error("the spool does not get empty")
}
