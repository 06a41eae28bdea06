package wire

// class holds what a byte may be part of. It is the one table that names,
// values, targets and extensions are checked against.
var class = makeClasses()

const (
	isToken  = 1 << iota // tchar, RFC 9110 §5.6.2
	isValue              // field value: VCHAR, SP, HTAB, obs-text
	isTarget             // request target: VCHAR without "#"
	isExt                // chunk extension: VCHAR, SP, HTAB
	isDigit
	isHex
)

func makeClasses() (t [256]uint8) {
	for c := range 256 {
		vchar := c > ' ' && c < 0x7f
		blank := c == ' ' || c == '\t'
		digit := c >= '0' && c <= '9'
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		set := func(on bool, bit uint8) {
			if on {
				t[c] |= bit
			}
		}
		set(digit || letter, isToken)
		set(vchar || blank || c >= 0x80, isValue)
		set(vchar && c != '#', isTarget)
		set(vchar || blank, isExt)
		set(digit, isDigit)
		set(digit || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F', isHex)
	}
	for _, c := range "!#$%&'*+-.^_`|~" {
		t[c] |= isToken
	}
	return t
}

func all(s string, bit uint8) bool {
	for i := range len(s) {
		if class[s[i]]&bit == 0 {
			return false
		}
	}
	return true
}

// allValue is all(s, isValue), eight bytes at a time.
func allValue(s string) bool {
	const ones, tops = 0x0101010101010101, 0x8080808080808080
	for ; len(s) >= 8; s = s[8:] {
		w := uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
			uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
		del := w ^ ones*0x7f // a byte of DEL is zero here
		// A byte below 0x20, or one that is DEL, sets its top bit; so may one
		// behind it, which the table clears up.
		if ((w-ones*0x20)&^w|(del-ones)&^del)&tops != 0 && !all(s[:8], isValue) {
			return false
		}
	}
	return all(s, isValue)
}

// ValidName reports whether s is a token, and so may be a field name or a
// method.
func ValidName(s string) bool { return s != "" && all(s, isToken) }

// ValidValue reports whether s may be a field value: no control characters but
// HTAB, and no blank at either end.
func ValidValue(s string) bool {
	return allValue(s) && s == trimBlanks(s)
}

// ValidTarget reports whether s may stand in a request line as the target.
func ValidTarget(s string) bool { return s != "" && all(s, isTarget) }

func trimBlanks(s string) string {
	for s != "" && (s[0] == ' ' || s[0] == '\t') {
		s = s[1:]
	}
	for s != "" && (s[len(s)-1] == ' ' || s[len(s)-1] == '\t') {
		s = s[:len(s)-1]
	}
	return s
}

func hexValue(c byte) uint64 {
	switch {
	case c <= '9':
		return uint64(c - '0')
	case c <= 'F':
		return uint64(c-'A') + 10
	default:
		return uint64(c-'a') + 10
	}
}

// ValidScheme reports whether s is a URI scheme (RFC 3986 §3.1).
func ValidScheme(s string) bool {
	if s == "" || s[0]|0x20 < 'a' || s[0]|0x20 > 'z' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; class[c]&isDigit == 0 && c != '+' && c != '-' && c != '.' && (c|0x20 < 'a' || c|0x20 > 'z') {
			return false
		}
	}
	return true
}
