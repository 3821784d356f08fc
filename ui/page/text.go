package page

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Ago says how long before now t was, in the words app.js ticks on with: "now", "12 s ago", "3 min ago", "5 h ago", then
// the date. The zero t is "never"; the zero now gives "", for content that is to be compared over time.
func Ago(t, now time.Time) string {
	if t.IsZero() {
		return "never"
	}
	if now.IsZero() {
		return ""
	}
	switch d := now.Sub(t); {
	case d < 2*time.Second:
		return "now"
	case d < time.Minute:
		return strconv.Itoa(int(d/time.Second)) + " s ago"
	case d < time.Hour:
		return strconv.Itoa(int(d/time.Minute)) + " min ago"
	case d < 24*time.Hour:
		return strconv.Itoa(int(d/time.Hour)) + " h ago"
	}
	return t.UTC().Format(time.DateOnly)
}

// until says how long after now t is; past times are "expired".
func until(t, now time.Time) string {
	if t.IsZero() || now.IsZero() {
		return ""
	}
	switch d := t.Sub(now); {
	case d <= 0:
		return "expired"
	case d < time.Hour:
		return "in " + strconv.Itoa(int(d/time.Minute)) + " min"
	case d < 48*time.Hour:
		return "in " + strconv.Itoa(int(d/time.Hour)) + " h"
	default:
		return "in " + strconv.Itoa(int(d/(24*time.Hour))) + " days"
	}
}

// stamp is a moment in full.
func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04:05 UTC")
}

// Number writes n with thin spaces between thousands.
func Number[N int | uint32 | uint64](n N) string {
	s := strconv.FormatUint(uint64(n), 10)
	var b strings.Builder
	for i, digit := range s {
		if i > 0 && (len(s)-i)%3 == 0 {
			b.WriteRune('\u2009')
		}
		b.WriteRune(digit)
	}
	return b.String()
}

// Count writes a number of things: "1 edge", "2 edges".
func Count[N int | uint32 | uint64](n N, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return Number(n) + " " + thing + "s"
}

// Size writes a number of bytes with one decimal.
func Size(bytes uint64) string {
	if bytes < 1024 {
		return strconv.FormatUint(bytes, 10) + " B"
	}
	f, unit := float64(bytes)/1024, "KiB"
	for _, larger := range []string{"MiB", "GiB", "TiB"} {
		if f >= 1024 {
			f, unit = f/1024, larger
		}
	}
	return strconv.FormatFloat(f, 'f', 1, 64) + " " + unit
}

// Short is the first 8 characters of a checksum or hash.
func Short(s string) string {
	if len(s) > 8 && isASCII(s) {
		return s[:8]
	}
	return s
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// percent writes part of whole with one decimal.
func percent(part, whole uint32) string {
	if whole == 0 {
		return "–"
	}
	return fmt.Sprintf("%.1f\u2009%%", 100*float64(part)/float64(whole))
}

// DOM makes an element's ID from a name that may hold any character: injective, and usable in a selector as it is.
func DOM(prefix, name string) string {
	var b strings.Builder
	b.WriteString(prefix)
	for i := range len(name) {
		switch c := name[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-':
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "_%02x", c)
		}
	}
	return b.String()
}
