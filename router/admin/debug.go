package admin

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/pprof"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/portico-ingress/portico/router/diag"
	"github.com/portico-ingress/portico/router/publish"
)

const index = `Portico

/table          the served table, its hosts, paths and endpoints; ?format=json
/problems       what is wrong with which object, and what to do; ?format=json
/certificates   which certificate is served for which host; ?format=json
/managed        certificates that Portico gets itself, and how it is getting on; ?format=json
/debug/pprof/   profiles of this process
`

// NewDebug returns the handler of the pages for people. Profiles hold memory
// contents, so it belongs on a loopback address; it answers only to addresses
// and to the name localhost.
func NewDebug(s Sources) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/{$}", func(w http.ResponseWriter, _ *http.Request) { text(w, http.StatusOK, index) })
	mux.HandleFunc("/table", s.table)
	mux.HandleFunc("/problems", s.problems)
	mux.HandleFunc("/certificates", s.certificates)
	mux.HandleFunc("/managed", s.managed)
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return localName(mux)
}

// answer writes v as JSON if the request asks for it, else the text.
func answer(w http.ResponseWriter, r *http.Request, v any, plain func() string) {
	switch format := r.URL.Query().Get("format"); format {
	case "json":
		w.Header().Set("Content-Type", "application/json")
		out := json.NewEncoder(w)
		out.SetIndent("", "  ")
		_ = out.Encode(v)
	case "", "text":
		text(w, http.StatusOK, plain())
	default:
		text(w, http.StatusBadRequest, "format is text or json\n")
	}
}

func (s Sources) table(w http.ResponseWriter, r *http.Request) {
	snap := s.Publisher.Snapshot()
	if snap == nil {
		text(w, http.StatusServiceUnavailable, "no table yet: the first complete picture has not been read\n")
		return
	}
	answer(w, r, tableJSON(snap), func() string { return tableText(snap) })
}

// tableText is the table's canonical text and the endpoints behind it.
func tableText(snap *publish.Snapshot) string {
	var b strings.Builder
	fmt.Fprintf(&b, "generation %d, published %s\n\n%s\npools\n", snap.Generation, snap.Published.UTC().Format(time.RFC3339), snap.Table)
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, p := range poolsJSON(snap) {
		fmt.Fprintf(w, "  %s\t", p.Name)
		for i, e := range p.Endpoints {
			if i > 0 {
				fmt.Fprint(w, ", ")
			}
			fmt.Fprint(w, e.Address, " ", e.State)
		}
		fmt.Fprintln(w, p.Reason)
	}
	_ = w.Flush() // into memory
	return b.String()
}

type problemJSON struct {
	Object  string `json:"object"`
	Field   string `json:"field,omitempty"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
	Remedy  string `json:"remedy,omitempty"`
}

func (s Sources) problems(w http.ResponseWriter, r *http.Request) {
	problems := s.Publisher.Problems()
	list := make([]problemJSON, len(problems))
	for i, p := range problems {
		list[i] = problemJSON{p.Object.String(), p.Field, string(p.Reason), p.Message, p.Remedy}
	}
	answer(w, r, list, func() string { return problemsText(problems) })
}

func problemsText(problems []diag.Problem) string {
	if len(problems) == 0 {
		return "no problems\n"
	}
	var b strings.Builder
	for _, p := range problems {
		fmt.Fprintln(&b, p)
	}
	return b.String()
}

// ServedCertificate is one line of /certificates?format=json.
type ServedCertificate struct {
	Host      string    `json:"host"` // empty: the default certificate
	Source    string    `json:"source"`
	Names     []string  `json:"names"`
	Issuer    string    `json:"issuer"`
	NotBefore time.Time `json:"notBefore"`
	NotAfter  time.Time `json:"notAfter"`
	Stapled   bool      `json:"stapled,omitempty"` // with an OCSP response
	Why       string    `json:"why,omitempty"`     // why it is the default certificate
}

func (s Sources) certificates(w http.ResponseWriter, r *http.Request) {
	served := s.Certs.List()
	list := make([]ServedCertificate, len(served))
	for i, c := range served {
		list[i] = ServedCertificate{Host: c.Host, Source: c.Source, Names: c.Names(), Issuer: c.Leaf.Issuer.String(),
			NotBefore: c.Leaf.NotBefore, NotAfter: c.Leaf.NotAfter, Stapled: len(c.TLS.OCSPStaple) > 0, Why: c.Why}
	}
	answer(w, r, list, func() string { return certificatesText(list) })
}

// maxNames bounds the bytes of the names that a line of a table shows: what is in
// a certificate is not ours to trust.
const maxNames = 16 << 10

func certificatesText(list []ServedCertificate) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "HOST\tSOURCE\tVALID UNTIL\tNAMES\tWHY")
	for _, c := range list {
		host := c.Host
		if host == "" {
			host = "(default)"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", host, c.Source, c.NotAfter.UTC().Format(time.RFC3339), diag.OneLine(strings.Join(c.Names, ","), maxNames), diag.OneLine(c.Why, diag.MaxNote))
	}
	_ = w.Flush() // into memory
	return b.String()
}
