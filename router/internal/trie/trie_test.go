package trie

import (
	"strings"
	"testing"
)

// naive is the Ingress API's definition of Prefix, written down literally.
func naive(prefixes []string, path string) (best string, ok bool) {
	for _, p := range prefixes {
		short := strings.TrimSuffix(p, "/")
		if path != short && !strings.HasPrefix(path, short+"/") {
			continue
		}
		if !ok || len(short) > len(best) {
			best, ok = short, true
		}
	}
	return best, ok
}

func build(prefixes []string) *Trie[string] {
	t := new(Trie[string])
	for _, p := range prefixes {
		t.Insert(p, strings.TrimSuffix(p, "/"))
	}
	return t
}

func TestLongest(t *testing.T) {
	prefixes := []string{"/", "/aaa", "/aaa/bbb/", "/aaa/bbb/ccc", "/a//b", "/x//"}
	tr := build(prefixes)
	for _, path := range []string{
		"/", "/aaa", "/aaa/", "/aaab", "/aaa/bbb", "/aaa/bbb/", "/aaa/bbbx", "/aaa/bbb/ccc/d", "/AAA",
		"/a/b", "/a//b", "/a//b/", "//", "//aaa", "/x", "/x/", "/x//", "/x//y",
	} {
		want, wantOK := naive(prefixes, path)
		if got, ok := tr.Longest(path); got != want || ok != wantOK {
			t.Errorf("Longest(%q) = %q, %v; want %q, %v", path, got, ok, want, wantOK)
		}
	}
}

func TestInsertTwice(t *testing.T) {
	var tr Trie[int]
	if !tr.Insert("/a", 1) || tr.Insert("/a/", 2) {
		t.Fatal("/a and /a/ are one prefix, and the first keeps it")
	}
	if v, _ := tr.Longest("/a/b"); v != 1 {
		t.Fatalf("got %d, want 1", v)
	}
	if _, ok := tr.Longest("/b"); ok {
		t.Fatal("/b matches nothing")
	}
}

func FuzzLongest(f *testing.F) {
	f.Add("/\n/a\n/a/b\n/a//", "/a/b/c")
	f.Add("/x/y/\n/x", "/x//y")
	f.Fuzz(func(t *testing.T, list, path string) {
		if !strings.HasPrefix(path, "/") {
			return
		}
		var prefixes []string
		for p := range strings.SplitSeq(list, "\n") {
			if strings.HasPrefix(p, "/") {
				prefixes = append(prefixes, p)
			}
		}
		want, wantOK := naive(prefixes, path)
		if got, ok := build(prefixes).Longest(path); got != want || ok != wantOK {
			t.Fatalf("%q: Longest(%q) = %q, %v; want %q, %v", prefixes, path, got, ok, want, wantOK)
		}
	})
}
