package edgeplugin

import (
	"strings"
	"unicode/utf8"
)

const (
	// maxText bounds what an author says of an error, in bytes; with cutMark it is no more than gw shows.
	maxText = 1000
	cutMark = " … (cut)"
)

// errorText returns what an author's error says, as text does.
func errorText(err error) string {
	if s := text(err.Error()); s != "" {
		return s
	}
	return "an error without a message"
}

// text returns what an author says as it can be sent, and says if that isn't all.
func text(s string) string {
	s, cut := sendable(s, maxText)
	if cut {
		s += cutMark
	}
	return s
}

// sendable returns the beginning of s in at most n bytes of UTF-8; a message with anything else in it can't be sent. cut:
// there was more.
func sendable(s string, n int) (text string, cut bool) {
	text, cut = clip(s, n)
	text, grown := clip(strings.ToValidUTF8(text, "\uFFFD"), n)
	return text, cut || grown
}

// clip cuts s to at most n bytes, at a character.
func clip(s string, n int) (string, bool) {
	if len(s) <= n {
		return s, false
	}
	end := n
	for end > max(0, n-utf8.UTFMax) && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end], true
}
