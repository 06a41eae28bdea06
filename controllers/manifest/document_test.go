package manifest

import (
	"slices"
	"strings"
	"testing"
)

func TestSplit(t *testing.T) {
	a, b := service("a"), service("b")
	json := func(name string) string {
		return `{"apiVersion":"v1","kind":"Service","metadata":{"name":"` + name + `"},"spec":{"clusterIP":"None"}}`
	}
	for name, c := range map[string]struct {
		text  string
		want  []string
		lines []int // of the objects
	}{
		"two documents":         {a + "---\n" + b, []string{"a", "b"}, []int{1, 9}},
		"begins with ---":       {"---\n" + a + "---\n" + b, []string{"a", "b"}, []int{2, 10}},
		"comment and directive": {"# c\n%YAML 1.1\n---\n" + a, []string{"a"}, []int{4}},
		"--- with a comment":    {a + "--- # next\n" + b, []string{"a", "b"}, []int{1, 9}},
		"--- with content":      {a + "--- " + json("b") + "\n", []string{"a", "b"}, []int{1, 8}},
		"empty documents":       {"---\n---\n" + a + "---\n\n---\nnull\n", []string{"a"}, []int{3}},
		"end marker":            {a + "...\n---\n" + b + "...\n", []string{"a", "b"}, []int{1, 10}},
		"byte order mark, CRLF": {"\ufeff" + strings.ReplaceAll(a+"---\n"+b, "\n", "\r\n"), []string{"a", "b"}, []int{1, 9}},
		"--- inside a scalar":   {"apiVersion: v1\nkind: Service\nmetadata:\n  name: a\n  annotations:\n    x: |\n      ---\n      y\nspec: {clusterIP: None}\n", []string{"a"}, []int{1}},
		"JSON in a row":         {json("a") + json("b") + "\n\n" + json("c"), []string{"a", "b", "c"}, []int{1, 1, 3}},
		"JSON, then YAML":       {json("a") + "\n---\n" + b, []string{"a", "b"}, []int{1, 3}},
		"nothing":               {"", nil, nil},
	} {
		set, faults := Decode(strings.NewReader(c.text), "x.yaml")
		if len(faults) > 0 {
			t.Errorf("%s: %s", name, faultLines(faults))
		}
		var lines []int
		for _, svc := range set.Services {
			_, line, _ := set.Position(serviceRef(svc.Name), "")
			lines = append(lines, line)
		}
		if got := names(set); !slices.Equal(got, c.want) || !slices.Equal(lines, c.lines) {
			t.Errorf("%s: services %v at %v, want %v at %v", name, got, lines, c.want, c.lines)
		}
	}
}

// TestSyntax: the line of a syntax error is the one that a reader would mend,
// and the documents around it are usable.
func TestSyntax(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		line int // in the broken document
	}{
		"indentation":     {"a:\n  b: 1\n c: 2\n", 3},
		"missing colon":   {"a: 1\nb\nc: 2\n", 2},
		"tab":             {"a:\n\tb: 1\n", 2},
		"open quote":      {"a: \"x\nb: 1\n", 1},
		"open bracket":    {"a: [1, 2\nb: 3\n", 1},
		"two colons":      {"a: b: c\n", 1},
		"unknown alias":   {"a: 1\nb: *nowhere\n", 2},
		"list under text": {"a: x\n- y\n", 2},
	} {
		before := service("before") + "---\n"
		set, faults := Decode(strings.NewReader(before+c.text+"---\n"+service("after")), "x.yaml")
		if got := names(set); !slices.Equal(got, []string{"before", "after"}) {
			t.Errorf("%s: services %v", name, got)
		}
		want := strings.Count(before, "\n") + c.line
		if len(faults) != 1 || faults[0].Line != want || !strings.Contains(faults[0].Message, "is not valid YAML") {
			t.Errorf("%s: want line %d, got %s", name, want, faultLines(faults))
		}
	}
}
