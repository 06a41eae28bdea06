package view

import (
	"errors"
	"strings"
)

// Errors of CanonicalPath. Each makes the request a 400.
var (
	errPathSlash     = errors.New(`path does not start with "/"`)
	errPathChar      = errors.New(`path contains a control character, a space, "#" or "\"`)
	errPathPercent   = errors.New(`path contains "%" without two hexadecimal digits`)
	errPathNUL       = errors.New("path contains %00")
	errPathAmbiguous = errors.New(`path contains a "." or ".." segment hidden behind %2f, %5c or ";"`)
)

// CanonicalPath returns the one form of a request path that is matched,
// checked, logged and forwarded (RFC 3986 §6.2.2): percent-encoded unreserved
// characters are decoded, then dot segments are removed. Everything else goes
// through byte for byte: reserved characters and their encodings, "//", ";",
// and case. The result is a fixpoint.
//
// It refuses what a backend could read as another path than we matched: see
// the errors above. It does not allocate for a path that is canonical already.
func CanonicalPath(path string) (string, error) {
	if path == "" || path[0] != '/' {
		return "", errPathSlash
	}
	decode, dots, hidden, err := scanPath(path)
	if err != nil {
		return "", err
	}
	if decode {
		path = decodeUnreserved(path)
		dots = true
	}
	if dots || hidden {
		if hidesDotSegment(path) {
			return "", errPathAmbiguous
		}
		path = removeDotSegments(path)
	}
	return path, nil
}

// scanPath looks at every byte once and tells which of the slower steps the
// path needs.
func scanPath(path string) (decode, dots, hidden bool, err error) {
	for i := 0; i < len(path); i++ {
		switch c := path[i]; {
		case c <= ' ' || c == 0x7f || c == '#' || c == '\\':
			return false, false, false, errPathChar
		case c == '.':
			dots = dots || path[i-1] == '/' // i > 0: the first byte is a slash
		case c == ';':
			hidden = true
		case c == '%':
			b, ok := unhex(path, i)
			if !ok {
				return false, false, false, errPathPercent
			}
			switch {
			case b == 0:
				return false, false, false, errPathNUL
			case unreserved(b):
				decode = true
			case b == '/' || b == '\\':
				hidden = true
			}
			i += 2
		}
	}
	return decode, dots, hidden, nil
}

// decodeUnreserved decodes %XX of unreserved characters (RFC 3986 §2.3). The
// percent sign is not one of them, so nothing is decoded twice.
func decodeUnreserved(path string) string {
	var b strings.Builder
	b.Grow(len(path))
	for i := 0; i < len(path); i++ {
		if path[i] == '%' {
			if c, _ := unhex(path, i); unreserved(c) {
				b.WriteByte(c)
				i += 2
				continue
			}
		}
		b.WriteByte(path[i])
	}
	return b.String()
}

// hidesDotSegment reports whether a segment would be "." or ".." if %2f or %5c
// separated segments, or if text behind ";" were ignored: the ways in which
// backends are known to differ. Plain dot segments are not hidden.
func hidesDotSegment(path string) bool {
	for seg := range strings.SplitSeq(path, "/") {
		loose := looseSegments(seg)
		for part := range loose {
			if len(part) < len(seg) && isDots(part) {
				return true
			}
		}
	}
	return false
}

// looseSegments yields the parts of a segment as a backend may see them that
// decodes before it splits and drops path parameters.
func looseSegments(seg string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for seg != "" {
			cut, next := len(seg), len(seg)
			for i := 0; i+2 < len(seg); i++ {
				if b, ok := unhex(seg, i); seg[i] == '%' && ok && (b == '/' || b == '\\') {
					cut, next = i, i+3
					break
				}
			}
			part, _, _ := strings.Cut(seg[:cut], ";")
			if !yield(part) {
				return
			}
			seg = seg[next:]
		}
	}
}

func isDots(seg string) bool { return seg == "." || seg == ".." }

// removeDotSegments is RFC 3986 §5.2.4 on an absolute path. Empty segments are
// segments: "/a//.." is "/a/".
func removeDotSegments(path string) string {
	if !strings.Contains(path, "/.") {
		return path
	}
	segs := strings.Split(path[1:], "/")
	kept := segs[:0]
	for i, seg := range segs {
		last := i == len(segs)-1
		switch seg {
		case ".":
		case "..":
			if len(kept) > 0 {
				kept = kept[:len(kept)-1]
			}
		default:
			kept = append(kept, seg)
			continue
		}
		if last { // a dot segment at the end leaves its slash
			kept = append(kept, "")
		}
	}
	return "/" + strings.Join(kept, "/")
}

// unhex decodes the two digits behind the percent sign at path[i].
func unhex(path string, i int) (byte, bool) {
	if i+2 >= len(path) {
		return 0, false
	}
	hi, ok1 := hexDigit(path[i+1])
	lo, ok2 := hexDigit(path[i+2])
	return hi<<4 | lo, ok1 && ok2
}

func hexDigit(c byte) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10, true
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

// unreserved is RFC 3986 §2.3.
func unreserved(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		return true
	}
	return c == '-' || c == '.' || c == '_' || c == '~'
}
