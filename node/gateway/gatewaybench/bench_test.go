package gatewaybench

import (
	"bytes"
	"context"
	"os"
	"strings"
	"testing"
)

// TestMain lets the processes that Run starts serve: they are this test binary.
func TestMain(m *testing.M) {
	if os.Getenv(roleVariable) != "" {
		if err := Run(context.Background(), Config{}, os.Stdout); err != nil {
			os.Stderr.WriteString(err.Error() + "\n")
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func TestPrintsARowPerProxy(t *testing.T) {
	var out bytes.Buffer
	if err := Run(t.Context(), Config{Rounds: 1, Requests: 200, Connections: 4}, &out); err != nil {
		t.Fatal(err)
	}
	for _, p := range proxies {
		if !strings.Contains(out.String(), p.what) {
			t.Errorf("no row for %q:\n%s", p.what, out.String())
		}
	}
}

// BenchmarkProxy reports the gateway's CPU time per request as a ratio to the bare proxy's.
func BenchmarkProxy(b *testing.B) {
	for b.Loop() {
		rows, err := Measure(b.Context(), Config{Rounds: 3})
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(rows[1].Ratio, "ratio")
		b.ReportMetric(micros(rows[1].CPU), "µs/request")
	}
}
