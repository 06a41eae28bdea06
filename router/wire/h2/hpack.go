package h2

import "strconv"

// The encoder keeps no dynamic table: what it saves on the wire costs more time
// here, and memory per connection. Names of the static table are indexed
// (RFC 7541, appendix A), as are its few whole fields that matter.

var staticNames = map[string]uint8{
	":authority": 1, ":method": 2, ":path": 4, ":scheme": 6, ":status": 8, "accept-charset": 15, "accept-encoding": 16,
	"accept-language": 17, "accept-ranges": 18, "accept": 19, "access-control-allow-origin": 20, "age": 21, "allow": 22,
	"authorization": 23, "cache-control": 24, "content-disposition": 25, "content-encoding": 26, "content-language": 27,
	"content-length": 28, "content-location": 29, "content-range": 30, "content-type": 31, "cookie": 32, "date": 33, "etag": 34,
	"expect": 35, "expires": 36, "from": 37, "host": 38, "if-match": 39, "if-modified-since": 40, "if-none-match": 41, "if-range": 42,
	"if-unmodified-since": 43, "last-modified": 44, "link": 45, "location": 46, "max-forwards": 47, "proxy-authenticate": 48,
	"proxy-authorization": 49, "range": 50, "referer": 51, "refresh": 52, "retry-after": 53, "server": 54, "set-cookie": 55,
	"strict-transport-security": 56, "transfer-encoding": 57, "user-agent": 58, "vary": 59, "via": 60, "www-authenticate": 61,
}

// staticName is an entry of staticNames.
type staticName struct {
	name  string
	index uint8
}

// staticByLength finds a name with few comparisons.
var staticByLength = func() (by [longestStaticName + 1][]staticName) {
	for name, i := range staticNames {
		by[len(name)] = append(by[len(name)], staticName{name, i})
	}
	return by
}()

// staticIndex returns the index of a name in the static table, 0 if it has none.
// Letters may be in upper case.
func staticIndex(name string) uint8 {
	if len(name) > longestStaticName {
		return 0
	}
	for _, e := range staticByLength[len(name)] {
		if isLowerOf(e.name, name) {
			return e.index
		}
	}
	return 0
}

// isLowerOf compares names of one length.
func isLowerOf(lower, name string) bool {
	for i := range len(lower) {
		if lowerByte(name[i]) != lower[i] {
			return false
		}
	}
	return true
}

func lowerByte(c byte) byte {
	if c >= 'A' && c <= 'Z' {
		c |= 0x20
	}
	return c
}

// whole are fields of the static table with their values.
var whole = map[string]uint8{
	":method\x00GET": 2, ":method\x00POST": 3, ":path\x00/": 4, ":scheme\x00http": 6, ":scheme\x00https": 7,
}

const longestStaticName = len("access-control-allow-origin")

// appendIndexed appends a pseudo-header field.
func appendIndexed(b []byte, name, value string) []byte {
	var key [32]byte
	if len(name)+1+len(value) <= len(key) {
		k := append(append(append(key[:0], name...), 0), value...)
		if i, ok := whole[string(k)]; ok {
			return append(b, 0x80|i)
		}
	}
	return appendLiteral(b, name, value)
}

func appendStatus(b []byte, status int) []byte {
	switch status {
	case 200:
		return append(b, 0x80|8)
	case 204:
		return append(b, 0x80|9)
	case 206:
		return append(b, 0x80|10)
	case 304:
		return append(b, 0x80|11)
	case 400:
		return append(b, 0x80|12)
	case 404:
		return append(b, 0x80|13)
	case 500:
		return append(b, 0x80|14)
	}
	var digits [3]byte
	return appendLiteralBytes(b, ":status", strconv.AppendInt(digits[:0], int64(status), 10))
}

// appendLiteral appends a field that nobody keeps. Its name goes out in lower
// case, as HTTP/2 wants it.
func appendLiteral(b []byte, name, value string) []byte {
	b = appendName(b, name)
	b = appendInt(b, 0, 7, len(value))
	return append(b, value...)
}

func appendLiteralBytes(b []byte, name string, value []byte) []byte {
	b = appendName(b, name)
	b = appendInt(b, 0, 7, len(value))
	return append(b, value...)
}

// appendName begins a literal field: never to be indexed where it is a secret,
// so that no proxy behind does it either (RFC 7541 §7.1.3).
func appendName(b []byte, name string) []byte {
	switch i := staticIndex(name); i {
	case 0:
		b = append(b, 0)
		b = appendInt(b, 0, 7, len(name))
		return appendLower(b, name)
	case 23, 32, 55: // authorization, cookie, set-cookie
		return appendInt(b, 0x10, 4, int(i))
	default:
		return appendInt(b, 0, 4, int(i))
	}
}

func appendLower(b []byte, s string) []byte {
	start := len(b)
	b = append(b, s...)
	for i, c := range b[start:] {
		b[start+i] = lowerByte(c)
	}
	return b
}

// appendInt appends an integer with a prefix of some bits (RFC 7541 §5.1).
func appendInt(b []byte, pattern byte, bits uint, n int) []byte {
	limit := 1<<bits - 1
	if n < limit {
		return append(b, pattern|byte(n))
	}
	b = append(b, pattern|byte(limit))
	for n -= limit; n >= 0x80; n >>= 7 {
		b = append(b, byte(n)|0x80)
	}
	return append(b, byte(n))
}
