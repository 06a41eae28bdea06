package manifest

import (
	"bytes"
	"encoding/json"
	"io"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// document is a part of a file that is parsed on its own, so that broken
// syntax in one document leaves the others usable.
type document struct {
	text   []byte
	before int // lines of the file before it
}

// split cuts a file into documents: JSON values that follow each other, or
// YAML at its "---" lines. No YAML scalar can hold such a line (YAML 1.2,
// c-forbidden), so this needs no parser.
func split(text []byte) []document {
	text = bytes.TrimPrefix(text, []byte("\ufeff"))
	if docs, ok := splitJSON(text); ok {
		return docs
	}
	var docs []document
	start, startLine, line := 0, 0, 0
	for at := 0; at < len(text); line++ {
		next := len(text)
		if i := bytes.IndexByte(text[at:], '\n'); i >= 0 {
			next = at + i + 1
		}
		if isSeparator(text[at:next]) && at > start {
			docs = append(docs, document{text[start:at], startLine})
			start, startLine = at, line
		}
		at = next
	}
	return append(docs, document{text[start:], startLine})
}

func isSeparator(line []byte) bool {
	rest, ok := bytes.CutPrefix(line, []byte("---"))
	return ok && (len(rest) == 0 || bytes.IndexByte([]byte(" \t\r\n"), rest[0]) >= 0)
}

// splitJSON reports false if text is not a sequence of JSON objects; then the
// YAML parser, whose errors have lines, has the say.
func splitJSON(text []byte) ([]document, bool) {
	if !bytes.HasPrefix(bytes.TrimLeft(text, " \t\r\n"), []byte("{")) {
		return nil, false
	}
	var docs []document
	dec := json.NewDecoder(bytes.NewReader(text))
	start, line := 0, 0
	for {
		var raw json.RawMessage
		switch err := dec.Decode(&raw); err {
		case nil:
		case io.EOF:
			return docs, true
		default:
			return nil, false
		}
		end := int(dec.InputOffset())
		docs = append(docs, document{unescape(text[start:end]), line})
		line += bytes.Count(text[start:end], []byte("\n"))
		start = end
	}
}

// escapes are the escapes of a JSON string; pairs of surrogates are one.
var escapes = regexp.MustCompile(`\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\.`)

// unescape writes the characters themselves where JSON has an escape that the
// YAML parser does not know: a pair of surrogates, or a slash.
func unescape(text []byte) []byte {
	return escapes.ReplaceAllFunc(text, func(escape []byte) []byte {
		var s string
		if len(escape) > 2 && json.Unmarshal([]byte(`"`+string(escape)+`"`), &s) == nil {
			return []byte(s)
		}
		if escape[1] == '/' {
			return escape[1:]
		}
		return escape
	})
}

// parse returns the root node of every YAML document in d; there is more than
// one only where "..." ends a document without a "---". An empty document has
// no node.
func (d document) parse() ([]*yaml.Node, error) {
	if d.blank() {
		return nil, nil
	}
	var roots []*yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(d.text))
	for {
		var n yaml.Node
		switch err := dec.Decode(&n); err {
		case nil:
		case io.EOF:
			return roots, nil
		default:
			return roots, err
		}
		if n.Kind == yaml.DocumentNode && len(n.Content) == 1 && n.Content[0].ShortTag() != "!!null" {
			roots = append(roots, n.Content[0])
		}
	}
}

// blank reports whether there is nothing but comments and directives, which a
// parser would take for a document that lacks its beginning.
func (d document) blank() bool {
	for line := range bytes.Lines(d.text) {
		line = bytes.TrimSpace(line)
		if len(line) > 0 && line[0] != '#' && line[0] != '%' && !bytes.Equal(line, []byte("---")) {
			return false
		}
	}
	return true
}

var atLine = regexp.MustCompile(`line \d+: `)

// syntax returns the line and the text of a parse error. The parser names the
// line where the broken construct begins; the line that breaks it is the last
// one of the shortest beginning of the document that fails in the same way.
func (d document) syntax(err error) (line int, text string) {
	lines := bytes.SplitAfter(d.text, []byte("\n"))
	low, high := 1, len(lines)
	for low < high {
		mid := (low + high) / 2
		part := document{text: bytes.Join(lines[:mid], nil)}
		if _, e := part.parse(); e != nil && e.Error() == err.Error() {
			high = mid
		} else {
			low = mid + 1
		}
	}
	text = strings.TrimPrefix(err.Error(), "yaml: ")
	return d.before + low, atLine.ReplaceAllString(text, "")
}

// plural returns "1 file" or "3 files".
func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.Itoa(n) + " " + what + "s"
}
