package node

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// What DESIGN.md files say is tested is: every test they name is there.
func TestDesignsNameTestsThatExist(t *testing.T) {
	designs := make(map[string]string)
	there := make(map[string]bool)
	err := filepath.WalkDir("..", func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() != "DESIGN.md" && !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		if d.Name() == "DESIGN.md" {
			designs[path] = string(text)
		}
		for _, m := range regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`).FindAllSubmatch(text, -1) {
			there[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	total := 0
	for path, text := range designs {
		for _, m := range regexp.MustCompile(`\b((?:Test|Fuzz)[A-Z]\w+)(…?)`).FindAllStringSubmatch(text, -1) {
			total++
			if m[2] == "" && !there[m[1]] { // "TestChaos…" stands for many
				t.Errorf("%s names %s, which is nowhere", path, m[1])
			}
		}
	}
	if total < 120 {
		t.Errorf("%d tests are named: are the lists gone?", total)
	}
}
