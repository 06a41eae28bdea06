//go:build linux

package main

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// What became of a test, in the words of ginkgo, which has more: all others
// are kinds of failure.
const (
	passed  = "passed"
	failed  = "failed"
	skipped = "skipped"
)

// A spec is a test and what became of it. why is empty if it passed at once.
type spec struct {
	name, state, why string
	took             time.Duration
}

// cannotRun are tests that are left out, and why.
var cannotRun = []struct{ pattern, why string }{
	{`SCTPConnectivity`, "needs a kernel with SCTP; the rules are compared with kube-proxy's by make test-root"},
	{`Feature:LocalhostNodePorts`, "NodePorts do not answer at loopback addresses; those of kube-proxy's nftables mode neither, unless an alpha feature is enabled"},
}

// leftOut is the pattern of those, to be appended to another.
func leftOut() string {
	var all strings.Builder
	for _, c := range cannotRun {
		all.WriteString("|" + c.pattern)
	}
	return all.String()
}

// ginkgoReport is what of ginkgo's report is needed.
type ginkgoReport []struct {
	SpecReports []struct {
		ContainerHierarchyTexts []string
		LeafNodeType            string
		LeafNodeText            string
		State                   string
		NumAttempts             int
		RunTime                 time.Duration
		Failure                 struct{ Message string }
	}
}

// readReport returns the tests of a group by name: those that ran, that skipped
// themselves, and that are left out.
func readReport(file string, g group) ([]spec, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var report ginkgoReport
	if err := json.Unmarshal(content, &report); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	focus := regexp.MustCompile(g.focus)
	var specs []spec
	for _, suite := range report {
		for _, r := range suite.SpecReports {
			s := spec{strings.Join(append(r.ContainerHierarchyTexts, r.LeafNodeText), " "), r.State, firstLine(r.Failure.Message), r.RunTime}
			if r.LeafNodeType != "It" {
				s.name = r.LeafNodeType // for example BeforeSuite, of all tests
			}
			switch {
			case r.State == skipped && s.why == "": // by the patterns
				if s.why = whyNot(s.name); s.why == "" || !focus.MatchString(s.name) {
					continue
				}
			case r.State == passed && r.LeafNodeType != "It":
				continue
			case r.State == passed && r.NumAttempts > 1:
				s.why = fmt.Sprintf("passed at attempt %d", r.NumAttempts)
			case r.State != passed && r.State != skipped:
				s.state, s.why = failed, strings.TrimPrefix(r.State+": ", failed+": ")+s.why
			}
			specs = append(specs, s)
		}
	}
	slices.SortFunc(specs, func(a, b spec) int { return strings.Compare(a.name, b.name) })
	return specs, nil
}

// whyNot says why a test is left out; empty if it is not.
func whyNot(name string) string {
	for _, c := range cannotRun {
		if regexp.MustCompile(c.pattern).MatchString(name) {
			return c.why
		}
	}
	return ""
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return line
}

// show writes each test with its result, and the counts.
func show(w io.Writer, group string, specs []spec) {
	counts := map[string]int{}
	fmt.Fprintf(w, "\n%s\n", group)
	for _, s := range specs {
		counts[s.state]++
		fmt.Fprintf(w, "  %-7s %6.1f s  %s\n", s.state, s.took.Seconds(), s.name)
		if s.why != "" {
			fmt.Fprintf(w, "%20s%s\n", "", s.why)
		}
	}
	fmt.Fprintf(w, "%s: %d passed, %d failed, %d did not run\n\n", group, counts[passed], counts[failed], counts[skipped])
}

// listFile has the names of the tests that pass with kube-proxy.
const listFile = "test/e2e/services/kube-proxy.txt"

//go:embed kube-proxy.txt
var withKubeProxy string

// judge compares what passed with what passes with kube-proxy. Of a part of the
// tests it wants that none failed.
func (o options) judge(specs []spec) error {
	var names strings.Builder
	for _, s := range specs {
		if s.state == passed {
			names.WriteString(s.name + "\n")
		}
	}
	fresh := filepath.Join(o.out, "passed-with-"+o.proxy+".txt")
	if err := os.WriteFile(fresh, []byte(names.String()), 0o644); err != nil {
		return err
	}
	if o.only != "" || o.focus != "" {
		if n := slices.IndexFunc(specs, func(s spec) bool { return s.state == failed }); n >= 0 {
			return fmt.Errorf("%s failed, and perhaps more; the logs are in %s", specs[n].name, o.out)
		}
		return nil
	}
	lacking, more := compare(lines(withKubeProxy), lines(names.String()))
	for _, name := range more {
		fmt.Printf("passed, and is not on the list: %s\n", name)
	}
	if len(lacking) > 0 {
		return fmt.Errorf("%d tests pass with kube-proxy (%s) and did not pass with %s; the logs are in %s:\n  %s",
			len(lacking), listFile, o.proxy, o.out, strings.Join(lacking, "\n  "))
	}
	fmt.Printf("all %d tests passed with %s that pass with kube-proxy; those that passed are in %s\n", len(lines(withKubeProxy)), o.proxy, fresh)
	return nil
}

// compare returns what is only in the one and what is only in the other.
func compare(list, passed []string) (lacking, more []string) {
	for _, name := range list {
		if !slices.Contains(passed, name) {
			lacking = append(lacking, name)
		}
	}
	for _, name := range passed {
		if !slices.Contains(list, name) {
			more = append(more, name)
		}
	}
	return lacking, more
}

func lines(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == '\n' })
}
