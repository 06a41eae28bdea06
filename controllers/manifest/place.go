package manifest

import (
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// place is where an object is written: its node, and what has to be added to
// the node's line because documents are parsed one by one.
type place struct {
	file   string
	before int // lines of the file before the document
	node   *yaml.Node
}

// line returns the line of a field, or of its nearest parent that is written.
func (p place) line(field string) int {
	at := p.node
	for field != "" {
		next, rest := step(at, field)
		if next == nil {
			break
		}
		at, field = next, rest
	}
	return p.before + at.Line
}

// step goes one segment of a field path down from n: a name, or an index in
// brackets. It returns nil if there is no such node. A mapping value that
// spans lines is found at its key, which is where a reader looks.
func step(n *yaml.Node, field string) (next *yaml.Node, rest string) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	segment, rest := cut(field)
	switch n.Kind {
	case yaml.SequenceNode:
		i, err := strconv.Atoi(segment)
		if err != nil || i < 0 || i >= len(n.Content) {
			return nil, ""
		}
		return n.Content[i], rest
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == segment {
				return at(n.Content[i], n.Content[i+1]), rest
			}
		}
	}
	return nil, ""
}

// at returns value with the line of its key.
func at(key, value *yaml.Node) *yaml.Node {
	if value.Kind == yaml.AliasNode {
		value = value.Alias
	}
	moved := *value
	moved.Line, moved.Column = key.Line, key.Column
	return &moved
}

// cut splits the first segment off a field path: "rules[0].host" gives
// "rules" and "[0].host", "[0].host" gives "0" and "host". What stands in
// brackets may hold dots: "annotations[portico.dev/ssl-redirect]".
func cut(field string) (segment, rest string) {
	if inner, ok := strings.CutPrefix(field, "["); ok {
		segment, rest, _ = strings.Cut(inner, "]")
		return strings.Trim(segment, `"'`), strings.TrimPrefix(rest, ".")
	}
	if i := strings.IndexAny(field, ".["); i >= 0 {
		return field[:i], strings.TrimPrefix(field[i:], ".")
	}
	return field, ""
}
