// Package trie finds the longest path prefix of a request, element by element,
// as the Ingress API defines Prefix: elements are what stands between slashes,
// compared case-sensitively, and one trailing slash of the prefix is ignored.
package trie

import (
	"slices"
	"strings"
)

// Trie maps path prefixes to values. The zero value is empty. Insert everything
// first; afterwards Longest is safe for concurrent use and does not allocate.
type Trie[V any] struct {
	root node[V]
}

// node is one element of a path. Children are sorted by name: compact, and the
// order of insertion leaves no trace.
type node[V any] struct {
	name     string
	children []*node[V]
	value    V
	set      bool
}

// Insert adds a prefix, which must start with "/". It reports false and changes
// nothing if an equal prefix is present.
func (t *Trie[V]) Insert(prefix string, value V) bool {
	n := &t.root
	for rest, more := elements(strings.TrimSuffix(prefix, "/")); more; {
		var name string
		name, rest, more = next(rest)
		n = n.child(name)
	}
	if n.set {
		return false
	}
	n.value, n.set = value, true
	return true
}

// Longest returns the value of the longest prefix of path.
func (t *Trie[V]) Longest(path string) (value V, ok bool) {
	n := &t.root
	value, ok = n.value, n.set
	for rest, more := elements(path); more; {
		var name string
		name, rest, more = next(rest)
		i, found := n.find(name)
		if !found {
			break
		}
		if n = n.children[i]; n.set {
			value, ok = n.value, true
		}
	}
	return value, ok
}

// elements strips the leading slash; more is false if there is no element.
func elements(path string) (rest string, more bool) {
	if path == "" {
		return "", false
	}
	return path[1:], true
}

func next(rest string) (name, tail string, more bool) {
	if i := strings.IndexByte(rest, '/'); i >= 0 {
		return rest[:i], rest[i+1:], true
	}
	return rest, "", false
}

func (n *node[V]) find(name string) (int, bool) {
	return slices.BinarySearchFunc(n.children, name, func(c *node[V], name string) int {
		return strings.Compare(c.name, name)
	})
}

func (n *node[V]) child(name string) *node[V] {
	i, found := n.find(name)
	if !found {
		n.children = slices.Insert(n.children, i, &node[V]{name: name})
	}
	return n.children[i]
}
