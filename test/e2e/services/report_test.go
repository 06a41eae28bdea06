//go:build linux

package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// report is as ginkgo writes it, with fields left out that are not read.
const report = `[{"SuitePath":"/x","SpecReports":[
 {"ContainerHierarchyTexts":null,"LeafNodeType":"SynchronizedBeforeSuite","LeafNodeText":"","State":"passed","RunTime":1},
 {"ContainerHierarchyTexts":["[sig-network] Services"],"LeafNodeType":"It","LeafNodeText":"should work [Conformance]","State":"passed","NumAttempts":1,"RunTime":2500000000},
 {"ContainerHierarchyTexts":["[sig-network] Services"],"LeafNodeType":"It","LeafNodeText":"should work again","State":"passed","NumAttempts":2,"RunTime":1},
 {"ContainerHierarchyTexts":["[sig-network] Services"],"LeafNodeType":"It","LeafNodeText":"should hang","State":"timedout","RunTime":1,"Failure":{"Message":"A suite timeout occurred\nand more"}},
 {"ContainerHierarchyTexts":["[sig-network] Services"],"LeafNodeType":"It","LeafNodeText":"should fail","State":"failed","RunTime":1,"Failure":{"Message":"no route"}},
 {"ContainerHierarchyTexts":["[sig-network] Services"],"LeafNodeType":"It","LeafNodeText":"should spread","State":"skipped","RunTime":1,"Failure":{"Message":"need 3 zones"}},
 {"ContainerHierarchyTexts":["[sig-network] Services"],"LeafNodeType":"It","LeafNodeText":"sctp [Feature:SCTPConnectivity]","State":"skipped","RunTime":0},
 {"ContainerHierarchyTexts":["[sig-network] DNS"],"LeafNodeType":"It","LeafNodeText":"sctp [Feature:SCTPConnectivity]","State":"skipped","RunTime":0},
 {"ContainerHierarchyTexts":["[sig-network] Services"],"LeafNodeType":"It","LeafNodeText":"should restart [Disruptive]","State":"skipped","RunTime":0}
]}]`

func TestReadReport(t *testing.T) {
	file := filepath.Join(t.TempDir(), "report.json")
	if err := os.WriteFile(file, []byte(report), 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := readReport(file, group{"services", `\[sig-network\] Services `, disruptive + leftOut()})
	want := []spec{
		{"[sig-network] Services sctp [Feature:SCTPConnectivity]", skipped, cannotRun[0].why, 0},
		{"[sig-network] Services should fail", failed, "no route", 1},
		{"[sig-network] Services should hang", failed, "timedout: A suite timeout occurred", 1},
		{"[sig-network] Services should spread", skipped, "need 3 zones", 1},
		{"[sig-network] Services should work [Conformance]", passed, "", 2500 * time.Millisecond},
		{"[sig-network] Services should work again", passed, "passed at attempt 2", 1},
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %+v, %v\nwant %+v", got, err, want)
	}
	var out strings.Builder
	show(&out, "services", got)
	if end := "services: 2 passed, 2 failed, 2 did not run\n\n"; !strings.HasSuffix(out.String(), end) {
		t.Errorf("got\n%s\nwant it to end in %q", out.String(), end)
	}
}

// A run fails by the tests of the list that did not pass, and names them.
func TestJudge(t *testing.T) {
	list := lines(withKubeProxy)
	if len(list) < 40 || !slices.IsSorted(list) {
		t.Fatalf("%s has %d names, or is not sorted", listFile, len(list))
	}
	var specs []spec
	for _, name := range list {
		specs = append(specs, spec{name: name, state: passed})
	}
	o := options{proxy: "ours", out: t.TempDir()}
	if err := o.judge(specs); err != nil {
		t.Errorf("all passed: %v", err)
	}
	specs[0].state, specs[1].state = failed, skipped
	if err := o.judge(specs); err == nil || !strings.Contains(err.Error(), list[0]) || !strings.Contains(err.Error(), list[1]) || strings.Contains(err.Error(), list[2]) {
		t.Errorf("the first two did not pass: %v", err)
	}
}
