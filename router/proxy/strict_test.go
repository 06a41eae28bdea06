package proxy

import (
	"bufio"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
)

// The grammar of RFC 9112, without anything that it lets a recipient put up with.
var (
	strictLine  = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]+ (/[!-\"$-~]*|\\*) HTTP/1\\.1$")
	strictField = regexp.MustCompile("^([!#$%&'*+.^_`|~0-9A-Za-z-]+): ([^\x00-\x20\x7f]([^\x00-\x08\x0a-\x1f\x7f]*[^\x00-\x20\x7f])?)?$")
	strictChunk = regexp.MustCompile("^[1-9a-f][0-9a-f]{0,14}$")
)

// brokenGrammar is what no honest sender writes; other errors are messages cut short.
type brokenGrammar struct{ line string }

func (e *brokenGrammar) Error() string { return fmt.Sprintf("not of the grammar: %q", e.line) }

// strictRequest reads one request as the strictest of backends does. The body of
// one that is cut short is an error of r's.
func strictRequest(r *bufio.Reader) (body []byte, err error) {
	line, err := strictRead(r)
	if err != nil {
		return nil, err
	}
	if !strictLine.MatchString(line) {
		return nil, &brokenGrammar{line}
	}
	seen, err := strictFields(r)
	if err != nil {
		return nil, err
	}
	length, coding := seen["content-length"], seen["transfer-encoding"]
	if len(seen["host"]) != 1 || len(length)+len(coding) > 1 || len(seen["keep-alive"])+len(seen["http2-settings"]) > 0 {
		return nil, &brokenGrammar{fmt.Sprint(seen)}
	}
	switch {
	case len(coding) > 0 && coding[0] == "chunked":
		return strictChunks(r)
	case len(coding) > 0:
		return nil, &brokenGrammar{coding[0]}
	case len(length) == 0:
		return nil, nil
	}
	n, err := strconv.ParseUint(length[0], 10, 62)
	if err != nil || length[0] != strconv.FormatUint(n, 10) {
		return nil, &brokenGrammar{length[0]}
	}
	return strictBytes(r, int64(n))
}

func strictBytes(r *bufio.Reader, n int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, n))
	if err == nil && int64(len(b)) < n {
		err = io.ErrUnexpectedEOF
	}
	return b, err
}

func strictRead(r *bufio.Reader) (string, error) {
	line, err := r.ReadString('\n')
	if err == nil && !strings.HasSuffix(line, "\r\n") {
		err = &brokenGrammar{line}
	}
	return strings.TrimSuffix(line, "\r\n"), err
}

func strictFields(r *bufio.Reader) (map[string][]string, error) {
	seen := map[string][]string{}
	for {
		line, err := strictRead(r)
		if err != nil || line == "" {
			return seen, err
		}
		m := strictField.FindStringSubmatch(line)
		if m == nil {
			return nil, &brokenGrammar{line}
		}
		name := strings.ToLower(m[1])
		seen[name] = append(seen[name], m[2])
	}
}

func strictChunks(r *bufio.Reader) (body []byte, err error) {
	for {
		size, err := strictRead(r)
		switch {
		case err != nil:
			return nil, err
		case size == "0":
			trailers, err := strictFields(r)
			if len(trailers["content-length"])+len(trailers["transfer-encoding"])+len(trailers["host"]) > 0 {
				err = &brokenGrammar{fmt.Sprint(trailers)}
			}
			return body, err
		case !strictChunk.MatchString(size):
			return nil, &brokenGrammar{size}
		}
		n, _ := strconv.ParseInt(size, 16, 64)
		chunk, err := strictBytes(r, n)
		if err != nil {
			return nil, err
		}
		body = append(body, chunk...)
		switch end, err := strictRead(r); {
		case err != nil:
			return nil, err
		case end != "":
			return nil, &brokenGrammar{end}
		}
	}
}
