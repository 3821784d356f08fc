package page

import (
	"regexp"
	"testing"
	"time"
)

func TestAgo(t *testing.T) {
	now := time.Date(2026, 11, 21, 6, 20, 0, 0, time.UTC)
	for d, want := range map[time.Duration]string{
		-time.Hour: "now", 0: "now", 1999 * time.Millisecond: "now", 2 * time.Second: "2 s ago", 59 * time.Second: "59 s ago", time.Minute: "1 min ago",
		59*time.Minute + 59*time.Second: "59 min ago", time.Hour: "1 h ago", 23*time.Hour + 59*time.Minute: "23 h ago", 24 * time.Hour: "2026-11-20",
	} {
		if got := Ago(now.Add(-d), now); got != want {
			t.Errorf("%v ago is %q, want %q", d, got, want)
		}
	}
	if got := Ago(time.Time{}, now); got != "never" {
		t.Errorf("the zero time is %q", got)
	}
	if got := Ago(now, time.Time{}); got != "" {
		t.Errorf("without a now: %q", got)
	}
}

func TestUntil(t *testing.T) {
	now := time.Date(2026, 11, 21, 6, 20, 0, 0, time.UTC)
	for d, want := range map[time.Duration]string{-1: "expired", 0: "expired", 30 * time.Minute: "in 30 min", 47 * time.Hour: "in 47 h", 61 * 24 * time.Hour: "in 61 days"} {
		if got := until(now.Add(d), now); got != want {
			t.Errorf("%v from now is %q, want %q", d, got, want)
		}
	}
}

func TestNumbersAndSizes(t *testing.T) {
	for n, want := range map[uint64]string{0: "0", 999: "999", 1000: "1\u2009000", 1284906: "1\u2009284\u2009906"} {
		if got := Number(n); got != want {
			t.Errorf("Number(%d) = %q, want %q", n, got, want)
		}
	}
	for n, want := range map[uint64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 18_432: "18.0 KiB", 64 << 20: "64.0 MiB", 31 << 30: "31.0 GiB", 5 << 40: "5.0 TiB"} {
		if got := Size(n); got != want {
			t.Errorf("Size(%d) = %q, want %q", n, got, want)
		}
	}
	if Count(1, "edge") != "1 edge" || Count(0, "edge") != "0 edges" || percent(1, 3) != "33.3\u2009%" || percent(0, 0) != "–" {
		t.Error("counts and percents")
	}
	if Short("ab") != "ab" || Short("0123456789") != "01234567" || Short("ääääääääää") != "ääääääääää" {
		t.Error("short checksums")
	}
}

func FuzzDOM(f *testing.F) {
	f.Add("edge.1", "edge_2e1")
	f.Add("a b", "a\x00b")
	safe := regexp.MustCompile(`^row-[A-Za-z0-9_-]*$`)
	f.Fuzz(func(t *testing.T, a, b string) {
		x, y := DOM("row-", a), DOM("row-", b)
		if !safe.MatchString(x) {
			t.Errorf("DOM(%q) = %q cannot stand in a selector", a, x)
		}
		if a != b && x == y {
			t.Errorf("%q and %q are both %q", a, b, x)
		}
	})
}

func FuzzExactly(f *testing.F) {
	f.Add("edge.1-a_b")
	f.Add(`^a\b$`)
	f.Fuzz(func(t *testing.T, s string) {
		if p, err := regexp.Compile("^(?:" + exactly(s) + ")$"); err == nil && s == string([]rune(s)) && !p.MatchString(s) {
			t.Errorf("the pattern %q does not match %q", exactly(s), s)
		}
	})
}
