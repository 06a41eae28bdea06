package wire

import (
	"bufio"
	"bytes"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/portico-ingress/portico/router/view"
)

// parse feeds raw to the scanner one byte at a time, as the worst network
// would, and parses what it finds.
func parse(raw string) (*RequestHead, int, error) {
	var s HeadScanner
	for i := 1; i <= len(raw); i++ {
		n, err := s.Scan([]byte(raw[:i]), &DefaultLimits)
		if err != nil {
			return nil, 0, err
		}
		if n > 0 {
			h := new(RequestHead)
			err := ParseRequest([]byte(raw[:n]), &DefaultLimits, h)
			return h, n, err
		}
	}
	return nil, 0, errIncomplete
}

var errIncomplete = errors.New("incomplete")

func TestParseRequest(t *testing.T) {
	h, n, err := parse("POST http://Shop.example:81/a%2fb?x=?y HTTP/1.1\r\nHost: other\r\nCONTENT-length: 5, 5\r\nA: \t b c \t\r\nA:\r\nexpect: 100-Continue\r\nConnection: x, Close\r\n\r\nhello")
	if err != nil {
		t.Fatal(err)
	}
	if h.Method != "POST" || h.Authority != "Shop.example:81" || h.Path != "/a%2fb" || h.Query != "x=?y" || !h.HasQuery {
		t.Errorf("parts: %+v", h)
	}
	if h.Framing != Length || h.Length != 5 || !h.Continue || h.KeepAlive || h.Proto() != "HTTP/1.1" {
		t.Errorf("framing: %+v", h)
	}
	want := view.Fields{{Name: "A", Value: "b c"}, {Name: "A", Value: ""}, {Name: "Connection", Value: "x, Close"}}
	if len(h.Fields) != len(want) {
		t.Fatalf("fields %v, want %v", h.Fields, want)
	}
	for i := range want {
		if h.Fields[i] != want[i] {
			t.Errorf("field %d: %v, want %v", i, h.Fields[i], want[i])
		}
	}
	if n == 0 {
		t.Error("no length")
	}
}

func TestParseRequestAccepts(t *testing.T) {
	for name, tt := range map[string]struct {
		raw     string
		framing Framing
		keep    bool
		path    string
	}{
		"plain":            {"GET /a HTTP/1.1\r\nHost: h\r\n\r\n", NoBody, true, "/a"},
		"1.0":              {"GET /a HTTP/1.0\r\n\r\n", NoBody, false, "/a"},
		"1.0 keep-alive":   {"GET /a HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", NoBody, true, "/a"},
		"one leading CRLF": {"\r\nGET /a HTTP/1.1\r\nHost: h\r\n\r\n", NoBody, true, "/a"},
		"chunked":          {"PUT /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: Chunked\r\n\r\n", Chunked, true, "/a"},
		"GET with body":    {"GET /a HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n", Length, true, "/a"},
		"zero length":      {"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n", NoBody, true, "/a"},
		"options star":     {"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", NoBody, true, "*"},
		"absolute no path": {"GET http://h?q HTTP/1.1\r\nHost: h\r\n\r\n", NoBody, true, "/"},
		"obs-text value":   {"GET /a HTTP/1.1\r\nHost: h\r\nA: \xff\xfe\r\n\r\n", NoBody, true, "/a"},
		"empty host":       {"GET /a HTTP/1.1\r\nHost:\r\n\r\n", NoBody, true, "/a"},
	} {
		t.Run(name, func(t *testing.T) {
			h, _, err := parse(tt.raw)
			if err != nil {
				t.Fatal(err)
			}
			if h.Framing != tt.framing || h.KeepAlive != tt.keep || h.Path != tt.path {
				t.Errorf("got %+v", h)
			}
		})
	}
}

func TestParseRequestRefuses(t *testing.T) {
	get := func(fields string) string { return "POST / HTTP/1.1\r\nHost: h\r\n" + fields + "\r\n\r\n" }
	line := func(l string) string { return l + "\r\nHost: h\r\n\r\n" }
	for name, tt := range map[string]struct {
		raw    string
		status int
		reason string
	}{
		"CL and TE":             {get("Content-Length: 1\r\nTransfer-Encoding: chunked"), 400, "length_and_coding"},
		"TE and CL":             {get("Transfer-Encoding: chunked\r\nContent-Length: 1"), 400, "length_and_coding"},
		"two lengths":           {get("Content-Length: 1\r\nContent-Length: 2"), 400, "content_length"},
		"length list":           {get("Content-Length: 1, 2"), 400, "content_length"},
		"length trailing comma": {get("Content-Length: 1,"), 400, "content_length"},
		"length plus":           {get("Content-Length: +5"), 400, "content_length"},
		"length minus":          {get("Content-Length: -0"), 400, "content_length"},
		"length hex":            {get("Content-Length: 0x10"), 400, "content_length"},
		"length empty":          {get("Content-Length:"), 400, "content_length"},
		"length inner blank":    {get("Content-Length: 1 0"), 400, "content_length"},
		"length overflow":       {get("Content-Length: 9999999999999999999"), 400, "content_length"},
		"TE twice":              {get("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"), 400, "transfer_encoding"},
		"TE list":               {get("Transfer-Encoding: chunked, chunked"), 400, "transfer_encoding"},
		"TE comma":              {get("Transfer-Encoding: chunked,"), 400, "transfer_encoding"},
		"TE prefix":             {get("Transfer-Encoding: xchunked"), 400, "transfer_encoding"},
		"TE identity":           {get("Transfer-Encoding: identity"), 400, "transfer_encoding"},
		"TE gzip":               {get("Transfer-Encoding: gzip, chunked"), 400, "transfer_encoding"},
		"TE parameter":          {get("Transfer-Encoding: chunked;q=1"), 400, "transfer_encoding"},
		"TE vertical tab":       {get("Transfer-Encoding: \x0bchunked"), 400, "field_value"},
		"TE empty":              {get("Transfer-Encoding:"), 400, "transfer_encoding"},
		"TE in 1.0":             {"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "coding_in_1_0"},
		"bare LF line":          {"GET / HTTP/1.1\nHost: h\r\n\r\n", 400, "bare_lf"},
		"bare LF field":         {"GET / HTTP/1.1\r\nHost: h\nA: b\r\n\r\n", 400, "bare_lf"},
		"bare LF end":           {"GET / HTTP/1.1\r\nHost: h\r\n\n", 400, "bare_lf"},
		"bare CR":               {get("A: b\rC: d"), 400, "field_value"},
		"NUL":                   {get("A: b\x00"), 400, "field_value"},
		"DEL":                   {get("A: \x7f"), 400, "field_value"},
		"blank before colon":    {get("A : b"), 400, "field_name"},
		"tab before colon":      {get("Content-Length\t: 5"), 400, "field_name"},
		"empty name":            {get(": b"), 400, "field_name"},
		"no colon":              {get("Ab"), 400, "field_syntax"},
		"name with slash":       {get("A/b: c"), 400, "field_name"},
		"name with high byte":   {get("A\x80: c"), 400, "field_name"},
		"folding":               {get("A: b\r\n c"), 400, "obs_fold"},
		"first field folded":    {"GET / HTTP/1.1\r\n Host: h\r\n\r\n", 400, "obs_fold"},
		"two blank lines":       {"\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", 400, "blank_lines"},
		"double space":          {line("GET  / HTTP/1.1"), 400, "request_line"},
		"space at end":          {line("GET / HTTP/1.1 "), 400, "request_line"},
		"tab between":           {line("GET\t/ HTTP/1.1"), 400, "request_line"},
		"leading space":         {line(" GET / HTTP/1.1"), 400, "request_line"},
		"no version":            {line("GET /"), 400, "request_line"},
		"bad method":            {line("G(T / HTTP/1.1"), 400, "request_line"},
		"lower http":            {line("GET / http/1.1"), 400, "request_line"},
		"version 1.10":          {line("GET / HTTP/1.10"), 400, "request_line"},
		"version 2.0":           {line("GET / HTTP/2.0"), 505, "version"},
		"version 1.2":           {line("GET / HTTP/1.2"), 505, "version"},
		"h2 preface":            {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "h2_preface"},
		"fragment":              {line("GET /a#b HTTP/1.1"), 400, "target"},
		"raw utf-8":             {line("GET /\xc3\xa9 HTTP/1.1"), 400, "target"},
		"NUL in target":         {line("GET /\x00 HTTP/1.1"), 400, "target"},
		"relative":              {line("GET a/b HTTP/1.1"), 400, "target"},
		"star on GET":           {line("GET * HTTP/1.1"), 400, "target"},
		"ftp URL":               {line("GET ftp://h/ HTTP/1.1"), 400, "target"},
		"URL without host":      {line("GET http:///a HTTP/1.1"), 400, "target"},
		"no host":               {"GET / HTTP/1.1\r\n\r\n", 400, "host_count"},
		"two hosts":             {"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400, "host_count"},
		"two hosts 1.0":         {"GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n", 400, "host_count"},
		"expectation":           {get("Expect: 200-ok"), 417, "expectation"},
		"long target":           {line("GET /" + strings.Repeat("a", 16<<10) + " HTTP/1.1"), 414, "target_too_long"},
		"endless target":        {"GET /" + strings.Repeat("a", 17<<10), 414, "target_too_long"},
		"big head":              {get("A: " + strings.Repeat("a", 64<<10)), 431, "head_too_large"},
		"many fields":           {get(strings.Repeat("A: b\r\n", 300)), 431, "too_many_fields"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := parse(tt.raw)
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("got %v, want %s", err, tt.reason)
			}
			if e.Status != tt.status || e.Reason != tt.reason {
				t.Errorf("got %v, want %d %s", e, tt.status, tt.reason)
			}
		})
	}
}

// TestRequestLineDetail: a version that is there is not said to be missing.
func TestRequestLineDetail(t *testing.T) {
	for _, raw := range []string{"GET  / HTTP/1.1", "GET /a b HTTP/1.1", "GET / HTTP/1.1 "} {
		if _, _, err := parse(raw + "\r\nHost: h\r\n\r\n"); err == nil || !strings.Contains(err.Error(), "single spaces") {
			t.Errorf("%q: %v", raw, err)
		}
	}
}

func TestParseRequestAllocations(t *testing.T) {
	raw := []byte("GET /a HTTP/1.1\r\nHost: h\r\nAccept: */*\r\nUser-Agent: x\r\n\r\n")
	h := RequestHead{Fields: make(view.Fields, 0, 8)}
	got := testing.AllocsPerRun(100, func() {
		if err := ParseRequest(raw, &DefaultLimits, &h); err != nil {
			t.Fatal(err)
		}
	})
	if got > 1 {
		t.Errorf("%v allocations, want only the copy of the head", got)
	}
}

// FuzzRequest checks that what is accepted means the same to us and to another
// parser when it is written out again.
func FuzzRequest(f *testing.F) {
	for _, s := range []string{
		"GET / HTTP/1.1\r\nHost: h\r\n\r\n",
		"POST /a?b HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nX: y\r\n\r\nabc",
		"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n",
		"\r\nOPTIONS * HTTP/1.0\r\nA:\r\n\r\n",
		"GET http://a/b HTTP/1.1\r\nHost: c\r\n d\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: h\r\nA : b\n\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var s HeadScanner
		n, err := s.Scan(raw, &DefaultLimits)
		var h RequestHead
		if err != nil || n == 0 || ParseRequest(raw[:n], &DefaultLimits, &h) != nil {
			return
		}
		out := AppendRequestLine(nil, h.Method, h.Target)
		out = AppendField(out, "Host", h.Authority)
		out = AppendFields(out, h.Fields)
		if h.Framing != NoBody {
			out = AppendFraming(out, h.Length)
		}
		out = AppendEnd(out)
		var again RequestHead
		if err := ParseRequest(out, &DefaultLimits, &again); err != nil {
			t.Fatalf("what we write we refuse: %v\n%q", err, out)
		}
		if again.Framing != h.Framing || again.Length != h.Length || again.Path != h.Path || len(again.Fields) != len(h.Fields) {
			t.Fatalf("read back differently: %+v %+v", h, again)
		}
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(out)))
		if err != nil {
			return // stricter about hosts and methods than a proxy may be
		}
		if r.Method != h.Method || r.ContentLength != h.Length && h.Framing != NoBody {
			t.Fatalf("another parser reads it differently: %+v\n%q", r, out)
		}
	})
}
