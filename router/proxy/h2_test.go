package proxy

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/portico-ingress/portico/test/backend"
)

func TestH2(t *testing.T) {
	g := newRig(t, func(c *backend.Conn) {
		for {
			head, err := c.Head()
			if err != nil {
				return
			}
			body, err := c.Body(head)
			if err != nil {
				return
			}
			c.Send("HTTP/1.1 201 Created\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\nConnection: x-hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nServer: b\r\n\r\n")
			if !strings.HasPrefix(head, "HEAD") {
				c.Send(body)
			}
		}
	})
	h2 := g.h2("")
	big := strings.Repeat("0123456789", 200_000)
	for _, body := range []string{"", "hello", big} {
		resp, err := h2.RoundTrip(request(t, "POST", "https://Shop.Example/a/../b?c", strings.NewReader(body)))
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		if err != nil || string(b) != body || resp.StatusCode != 201 {
			t.Errorf("%d, %d bytes of %d, %v", resp.StatusCode, len(b), len(body), err)
		}
		h := resp.Header
		if h.Get("Server") != "b" || h.Get("X-Hop") != "" || h.Get("Keep-Alive") != "" || h.Get("Content-Type") != "" {
			t.Errorf("headers %v", h)
		}
	}
	resp, err := h2.RoundTrip(request(t, "HEAD", "https://h/", nil))
	if err != nil || resp.Header.Get("Content-Length") != "0" {
		t.Errorf("HEAD: %v, %v", resp, err)
	}
	seen := g.backend.Received()
	for _, want := range []string{"POST /b?c HTTP/1.1\r\nHost: Shop.Example\r\n", "\r\nX-Forwarded-Proto: https\r\n", "\r\nX-Forwarded-Port: 443\r\n", "\r\nContent-Length: 5\r\n"} {
		if !strings.Contains(seen, want) {
			t.Errorf("no %q at the backend", want)
		}
	}
}

// TestH2BothWays talks to a backend that answers each chunk as it comes: neither
// direction waits for the end of the other, and nothing is held back.
func TestH2BothWays(t *testing.T) {
	g := newRig(t, func(c *backend.Conn) {
		c.Head()
		c.Send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
		for {
			size, err := c.Line()
			if err != nil || size == "0" {
				break
			}
			data, _ := c.Line()
			c.Send(size + "\r\n" + data + "\r\n")
		}
		c.Send("0\r\n\r\n")
		c.Wait()
	})
	pr, pw := io.Pipe()
	resp, err := g.h2("").RoundTrip(request(t, "POST", "https://h/", pr))
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 10)
	for _, s := range []string{"one", "two", "three"} {
		if _, err := io.WriteString(pw, s); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(resp.Body, buf[:len(s)]); err != nil || string(buf[:len(s)]) != s {
			t.Fatalf("%q, %v", buf[:len(s)], err)
		}
	}
	pw.Close()
	if rest, err := io.ReadAll(resp.Body); err != nil || len(rest) != 0 {
		t.Errorf("%q, %v", rest, err)
	}
}

// TestH2SmallReads: a client that reads in small pieces, and gives its windows back
// in as small ones, is no flood. Go's clients do that behind a bufio.Reader.
func TestH2SmallReads(t *testing.T) {
	const size = 16 << 20
	g := newRig(t, func(c *backend.Conn) {
		c.Head()
		c.Send("HTTP/1.1 200 OK\r\nContent-Length: " + strconv.Itoa(size) + "\r\n\r\n" + strings.Repeat("x", size))
		c.Wait()
	})
	resp, err := g.h2("").RoundTrip(request(t, "GET", "https://h/", nil))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, resp.Body, make([]byte, 4<<10)); n != size || err != nil {
		t.Errorf("%d bytes of %d: %v", n, size, err)
	}
}

// handshakeH2 begins HTTP/2 on a raw connection.
func handshakeH2(t testing.TB, c *client) *http2.Framer {
	t.Helper()
	c.send(http2.ClientPreface)
	fr := http2.NewFramer(c.Conn, c.br)
	fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if err := fr.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	return fr
}

// block encodes fields as name, value, name, value…
func block(fields ...string) []byte {
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	for i := 0; i < len(fields); i += 2 {
		e.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return b.Bytes()
}

// TestH2Hostile sends streams that must not reach the backend: each is answered
// with an error or reset, and the connection or a new one goes on.
func TestH2Hostile(t *testing.T) {
	g := newRig(t, backend.OK("ok"))
	base := func(more ...string) []string {
		return append([]string{":method", "GET", ":scheme", "https", ":authority", "h", ":path", "/x"}, more...)
	}
	with := func(method, authority, path string) []string {
		return []string{":method", method, ":scheme", "https", ":authority", authority, ":path", path}
	}
	for name, fields := range map[string][]string{
		"host differs":          base("host", "other"),
		"no host":               {":method", "GET", ":scheme", "https", ":path", "/x"},
		"two hosts":             base("host", "h", "host", "other"),
		"transfer-encoding":     base("transfer-encoding", "chunked"),
		"connection":            base("connection", "close"),
		"upgrade":               base("upgrade", "h2c"),
		"te":                    base("te", "gzip"),
		"length without body":   base("content-length", "5"),
		"length odd":            base("content-length", "+0"),
		"upper case":            base("Abc", "d"),
		"line break in a value": base("a", "b\r\nc: d"),
		"NUL in a value":        base("a", "b\x00"),
		"blank name":            base("a b", "c"),
		"CONNECT":               {":method", "CONNECT", ":authority", "h:443"},
		"TRACE":                 with("TRACE", "h", "/x"),
		"method with space":     with("GET /y HTTP/1.1", "h", "/x"),
		"path without slash":    with("GET", "h", "x"),
		"empty path":            with("GET", "h", ""),
		"path with space":       with("GET", "h", "/x HTTP/1.1"),
		"path with line break":  with("GET", "h", "/x\r\nA: b"),
		"fragment":              with("GET", "h", "/x#y"),
		"hidden dots":           with("GET", "h", "/x/..%2fy"),
		"authority with user":   with("GET", "a@h", "/x"),
		"authority with path":   with("GET", "h/y", "/x"),
		"star":                  with("GET", "h", "*"),
		"long path":             with("GET", "h", "/"+strings.Repeat("x", 17<<10)),
		"HPACK bomb":            base(slices.Repeat([]string{"bomb", strings.Repeat("b", 3000)}, 500)...), // one field, and 499 times one byte
	} {
		t.Run(name, func(t *testing.T) {
			c := g.dialTLS("", "h2")
			fr := handshakeH2(t, c)
			b := block(fields...)
			first, rest := b[:min(len(b), 16<<10)], b[min(len(b), 16<<10):]
			if err := fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: first, EndStream: true, EndHeaders: len(rest) == 0}); err != nil {
				t.Fatal(err)
			}
			if len(rest) > 0 {
				fr.WriteContinuation(1, true, rest)
			}
			if status := firstStatus(t, fr); status != "reset" && status[0] != '4' {
				t.Errorf("answered with %s", status)
			}
			if seen := g.backend.Received(); strings.Contains(seen, "/x") {
				t.Errorf("the backend saw %q", seen)
			}
			fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: block(with("GET", "h", "/canary")...), EndStream: true, EndHeaders: true})
			if status := firstStatus(t, fr); status != "200" {
				t.Errorf("canary on the same connection: %s", status)
			}
			g.checkCanary()
		})
	}
}

// firstStatus returns the status of the first response, or "reset" for a
// stream or connection that was ended.
func firstStatus(t testing.TB, fr *http2.Framer) string {
	t.Helper()
	for {
		f, err := fr.ReadFrame()
		if err != nil {
			return "reset"
		}
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			return f.PseudoValue("status")
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			return "reset"
		}
	}
}

// TestH2InTurn: a stream is served as if there had been none before, however
// those ended.
func TestH2InTurn(t *testing.T) {
	asked := make(chan struct{})
	g := newRig(t, func(c *backend.Conn) {
		for {
			head, err := c.Head()
			switch {
			case err != nil:
				return
			case strings.Contains(head, "/never"):
				asked <- struct{}{}
				c.Wait()
				return
			case strings.Contains(head, "/early"): // whatever the body is
				c.Send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno")
				return
			}
			body, err := c.Body(head)
			if err != nil {
				return
			}
			c.Send("HTTP/1.1 200 OK\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\nX-Twice: " + strconv.FormatBool(strings.Count(head, "Foo: ") > 1) + "\r\n\r\n" + body)
		}
	})
	h2 := g.h2("")
	records := 0
	ask := func(method, path, body string) (string, error) {
		t.Helper()
		req := request(t, method, "https://h"+path, strings.NewReader(body))
		req.Header.Set("Foo", "bar")
		if path == "/never" {
			ctx, cancel := context.WithCancel(t.Context())
			req = req.WithContext(ctx)
			go func() {
				defer cancel()
				<-asked
			}()
		}
		resp, err := h2.RoundTrip(req)
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		got, err := io.ReadAll(resp.Body)
		return strconv.Itoa(resp.StatusCode) + resp.Header.Get("X-Twice") + string(got), err
	}
	for range 10 {
		for _, tc := range []struct{ method, path, body, want string }{
			{"POST", "/echo", "some words", "200falsesome words"},
			{"GET", "/never", "", ""},
			{"POST", "/echo", "more words than before", "200falsemore words than before"},
			{"POST", "/early", strings.Repeat("x", 100_000), "413no"},
			{"GET", "/echo", "", "200false"},
		} {
			got, err := ask(tc.method, tc.path, tc.body)
			if got != tc.want || (err == nil) != (tc.want != "") {
				t.Fatalf("%s %s: %q, %v; want %q", tc.method, tc.path, got, err, tc.want)
			}
			g.record(records) // it has ended
			records++
		}
	}
}

// TestH2EarlyResponse: a client that is answered before it has sent its body is
// not reset while it may still end the request, nor for calling it off.
func TestH2EarlyResponse(t *testing.T) {
	g := newRig(t, func(c *backend.Conn) {
		c.Head()
		c.Send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
		c.Wait()
	})
	for name, end := range map[string]func(*http2.Framer, uint32) error{
		"ended":      func(fr *http2.Framer, id uint32) error { return fr.WriteData(id, true, []byte("hello")) },
		"called off": func(fr *http2.Framer, id uint32) error { return fr.WriteRSTStream(id, http2.ErrCodeNo) },
	} {
		t.Run(name, func(t *testing.T) {
			fr := handshakeH2(t, g.dialTLS("", "h2"))
			for id := uint32(1); id < 2*300; id += 2 { // more than may end in vain
				fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, EndHeaders: true,
					BlockFragment: block(":method", "POST", ":scheme", "https", ":authority", "h", ":path", "/x", "content-length", "5")})
				for over := false; !over; {
					f, err := fr.ReadFrame()
					if err != nil {
						t.Fatal(err)
					}
					switch f := f.(type) {
					case *http2.RSTStreamFrame, *http2.GoAwayFrame:
						t.Fatalf("at stream %d: %v", id, f)
					case *http2.DataFrame:
						over = f.StreamEnded()
					}
				}
				if err := end(fr, id); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// TestH2Length: a body that is not as long as announced is never complete at
// the backend.
func TestH2Length(t *testing.T) {
	g := newRig(t, backend.OK("ok"))
	for _, data := range []string{"abc", "abcdefgh"} {
		c := g.dialTLS("", "h2")
		fr := handshakeH2(t, c)
		fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndHeaders: true,
			BlockFragment: block(":method", "POST", ":scheme", "https", ":authority", "h", ":path", "/x", "content-length", "5")})
		fr.WriteData(1, true, []byte(data))
		if status := firstStatus(t, fr); status == "200" {
			t.Errorf("%q taken for 5 bytes", data)
		}
		if seen := g.backend.Received(); strings.Contains(seen, "abcde") {
			t.Errorf("the backend saw %q", seen)
		}
		g.checkCanary()
	}
}

// TestH2BytesOnTheWire pins down exactly what a backend sees of a stream.
func TestH2BytesOnTheWire(t *testing.T) {
	id := strings.Repeat("I", 32)
	ours := "X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: h\r\nX-Forwarded-Port: 80\r\nX-Real-IP: 127.0.0.1\r\nX-Request-ID: " + id + "\r\n"
	for name, tt := range map[string]struct {
		fields []string
		body   string
		want   string
	}{
		"plain": {[]string{":method", "GET", ":path", "/a/../%61dm//x?b=%zz;c", "accept", "*/*"}, "",
			"GET /adm//x?b=%zz;c HTTP/1.1\r\nHost: h\r\naccept: */*\r\nOURS\r\n"},
		"crumbs": {[]string{":method", "GET", ":path", "/", "cookie", "a=1", "x", "y", "cookie", "b=2"}, "",
			"GET / HTTP/1.1\r\nHost: h\r\ncookie: a=1; b=2\r\nx: y\r\nOURS\r\n"},
		"host besides": {[]string{":method", "GET", ":path", "/", "host", "h", "te", "trailers"}, "",
			"GET / HTTP/1.1\r\nHost: h\r\nOURSConnection: TE\r\nTE: trailers\r\n\r\n"},
		"spoofed identity": {[]string{":method", "GET", ":path", "/", "x-forwarded-for", "1.2.3.4", "x_real_ip", "1.2.3.4", "forwarded", "for=1.2.3.4", "x-request-id", "mine",
			"x-original-url", "/adm", "client-cert", "x", "proxy-authorization", "y", "http2-settings", "z", "kept", "yes"}, "",
			"GET / HTTP/1.1\r\nHost: h\r\nkept: yes\r\nOURS\r\n"},
		"length": {[]string{":method", "POST", ":path", "/", "content-length", "5"}, "hello",
			"POST / HTTP/1.1\r\nHost: h\r\nOURSContent-Length: 5\r\n\r\nhello"},
		"no length": {[]string{":method", "POST", ":path", "/"}, "hello",
			"POST / HTTP/1.1\r\nHost: h\r\nOURSTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nsum: 1\r\n\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			g := newRig(t, backend.OK("ok"))
			c := g.dial()
			fr := handshakeH2(t, c)
			fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndHeaders: true, EndStream: tt.body == "",
				BlockFragment: block(append([]string{":scheme", "https", ":authority", "h"}, tt.fields...)...)})
			if tt.body != "" {
				fr.WriteData(1, false, []byte(tt.body))
				fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndHeaders: true, EndStream: true, BlockFragment: block("sum", "1", "host", "evil", "x-forwarded-for", "1")})
			}
			if status := firstStatus(t, fr); status != "200" {
				t.Fatal(status)
			}
			got := g.backend.Received()
			if _, after, ok := strings.Cut(got, "X-Request-ID: "); ok && len(after) > 32 {
				got = strings.Replace(got, after[:32], id, 1)
			}
			if want := strings.Replace(tt.want, "OURS", ours, 1); got != want {
				t.Errorf("the backend saw\n%q, want\n%q", got, want)
			}
		})
	}
}

// TestH2RapidReset: the connection is closed before it has cost the backend
// much, and others are served.
func TestH2RapidReset(t *testing.T) {
	var reached atomic.Int64
	g := newRig(t, func(c *backend.Conn) {
		head, err := c.Head()
		if err != nil {
			return
		}
		if strings.Contains(head, "/canary") {
			c.Send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		} else {
			reached.Add(1)
		}
		c.Wait()
	})
	c := g.dialTLS("", "h2")
	fr := handshakeH2(t, c)
	head := block(":method", "GET", ":scheme", "https", ":authority", "h", ":path", "/x")
	sent := 0
	for ; sent < 100_000; sent++ {
		id := uint32(2*sent + 1)
		if fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: head, EndStream: true, EndHeaders: true}) != nil ||
			fr.WriteRSTStream(id, http2.ErrCodeCancel) != nil {
			break
		}
	}
	if sent == 100_000 {
		t.Error("the connection was never closed")
	}
	c.Close()
	g.checkCanary()
	if n := reached.Load(); n > int64(g.engine.opts.Streams) {
		t.Errorf("the backend saw %d requests", n)
	}
}

func TestH2ManyFields(t *testing.T) {
	g := newRig(t, backend.OK("ok"))
	req := request(t, "GET", "https://h/x", nil)
	for i := range 300 {
		req.Header[http.CanonicalHeaderKey("F"+strconv.Itoa(i))] = []string{"v"}
	}
	resp, err := g.h2("").RoundTrip(req)
	if err != nil || resp.StatusCode != 431 {
		t.Errorf("%v, %v", resp, err)
	}
}

// TestH2WebSocket opens a WebSocket on a stream (RFC 8441): to the backend it is
// an upgrade, and its answer is checked.
func TestH2WebSocket(t *testing.T) {
	g := newRig(t, func(c *backend.Conn) {
		head, err := c.Head()
		if err != nil {
			return
		}
		_, rest, _ := strings.Cut(head, "Sec-WebSocket-Key: ")
		key, _, _ := strings.Cut(rest, "\r\n")
		switch {
		case strings.Contains(head, "/canary"):
			c.Send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		case !strings.HasPrefix(head, "GET /chat?x HTTP/1.1\r\n") || !strings.Contains(head, "\r\nUpgrade: websocket\r\n"):
			c.Send("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
		case strings.Contains(head, "liar"):
			c.Send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n")
		case strings.Contains(head, "shrugs"): // for an extended CONNECT, 200 would be the tunnel
			c.Send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno")
		case strings.Contains(head, "nobody"):
			c.Send("HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno")
		default:
			c.Send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " + acceptWebSocket(key) + "\r\n\r\nhello ")
			io.Copy(c.Conn, c)
		}
	})
	for name, want := range map[string]string{"friend": "200", "liar": "502", "shrugs": "502", "nobody": "404"} {
		c := g.dialTLS("", "h2")
		fr := handshakeH2(t, c)
		fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndHeaders: true,
			BlockFragment: block(":method", "CONNECT", ":protocol", "websocket", ":scheme", "https", ":authority", "h", ":path", "/chat?x", "x-who", name)})
		if status := firstStatus(t, fr); status != want {
			t.Errorf("%s: %s, want %s", name, status, want)
		}
		if want != "200" {
			continue
		}
		fr.WriteData(1, true, []byte("there"))
		var got strings.Builder
		for ended := false; !ended; {
			f, err := fr.ReadFrame()
			if err != nil {
				t.Fatal(err)
			}
			if d, ok := f.(*http2.DataFrame); ok {
				got.Write(d.Data())
				ended = d.StreamEnded()
			}
		}
		if got.String() != "hello there" {
			t.Errorf("%q", got.String())
		}
	}
	g.checkCanary()
}

// TestH2PriorKnowledge: on a plaintext port a client may speak HTTP/2 from the
// first byte on (RFC 9113 §3.3), but not later, and not where TLS settled on
// HTTP/1.1.
func TestH2PriorKnowledge(t *testing.T) {
	g := newRig(t, backend.OK("ok"))
	var prior http.Protocols
	prior.SetUnencryptedHTTP2(true)
	cc, err := (&http.Transport{Protocols: &prior}).NewClientConn(t.Context(), "http", g.plain)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := cc.RoundTrip(request(t, "GET", "http://h/", nil))
	if err != nil || resp.StatusCode != 200 || resp.ProtoMajor != 2 {
		t.Errorf("%v, %v", resp, err)
	}
	cc.Close()
	reused, secure := g.dial(), g.dialTLS("", "http/1.1")
	reused.do(canary)
	for _, c := range []*client{reused, secure} {
		c.send(http2.ClientPreface)
		if status := c.response("GET").StatusCode; status != 400 {
			t.Errorf("answered with %d, want 400", status)
		}
	}
}
