package cli

import (
	"fmt"
	"strings"
)

const (
	diffContext = 3
	// maxDiffCells bounds the table that the longest common subsequence is found with. Beyond, the lines that differ are
	// shown as replaced.
	maxDiffCells = 4 << 20
)

// edit is a line of a comparison: ' ' in both, '-' before, '+' after.
type edit struct {
	sign byte
	text string
}

// compare returns the shortest edits that make after of before.
func compare(before, after []string) []edit {
	var head, tail []edit
	for len(before) > 0 && len(after) > 0 && before[0] == after[0] {
		head = append(head, edit{' ', before[0]})
		before, after = before[1:], after[1:]
	}
	for len(before) > 0 && len(after) > 0 && before[len(before)-1] == after[len(after)-1] {
		tail = append(tail, edit{' ', before[len(before)-1]})
		before, after = before[:len(before)-1], after[:len(after)-1]
	}
	edits := append(head, compareMiddle(before, after)...)
	for i := len(tail) - 1; i >= 0; i-- {
		edits = append(edits, tail[i])
	}
	return edits
}

func compareMiddle(before, after []string) (edits []edit) {
	n, m := len(before), len(after)
	longest := make([][]int32, 0, n+1) // [i][j]: length of the longest common subsequence of before[i:] and after[j:]
	if (n+1)*(m+1) <= maxDiffCells {
		for range n + 1 {
			longest = append(longest, make([]int32, m+1))
		}
		for i := n - 1; i >= 0; i-- {
			for j := m - 1; j >= 0; j-- {
				if before[i] == after[j] {
					longest[i][j] = longest[i+1][j+1] + 1
				} else {
					longest[i][j] = max(longest[i+1][j], longest[i][j+1])
				}
			}
		}
	}
	i, j := 0, 0
	for i < n || j < m {
		switch {
		case i < n && j < m && before[i] == after[j]:
			edits = append(edits, edit{' ', before[i]})
			i, j = i+1, j+1
		case i < n && (j == m || len(longest) == 0 || longest[i+1][j] >= longest[i][j+1]):
			edits = append(edits, edit{'-', before[i]})
			i++
		default:
			edits = append(edits, edit{'+', after[j]})
			j++
		}
	}
	return edits
}

// unified returns a unified diff of two texts without its file header, "" if they are equal.
func unified(before, after string) string {
	edits := compare(lines(before), lines(after))
	var b strings.Builder
	for start := 0; start < len(edits); {
		first := nextChange(edits, start)
		if first == len(edits) {
			break
		}
		from := max(start, first-diffContext)
		to := first
		for next := first; next < len(edits) && next <= to+2*diffContext; next = nextChange(edits, to) {
			to = next + 1
		}
		to = min(len(edits), to+diffContext)
		writeHunk(&b, edits, from, to)
		start = to
	}
	return b.String()
}

// nextChange returns the index of the first line from i on that differs.
func nextChange(edits []edit, i int) int {
	for i < len(edits) && edits[i].sign == ' ' {
		i++
	}
	return i
}

func writeHunk(b *strings.Builder, edits []edit, from, to int) {
	position := func(in []edit, not byte) (n int) {
		for _, e := range in {
			if e.sign != not {
				n++
			}
		}
		return n
	}
	start := func(not byte) int {
		if position(edits[from:to], not) == 0 {
			return position(edits[:from], not) // an empty side is named by the line before it
		}
		return position(edits[:from], not) + 1
	}
	fmt.Fprintf(b, "@@ -%d,%d +%d,%d @@\n", start('+'), position(edits[from:to], '+'), start('-'), position(edits[from:to], '-'))
	for _, e := range edits[from:to] {
		fmt.Fprintf(b, "%c%s\n", e.sign, e.text)
	}
}

func lines(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(text, "\n"), "\n")
}
