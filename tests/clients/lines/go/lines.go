// Package lines is what the Go drivers share: JSON lines in on stdin, out on stdout (see harness.py).
package lines

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"sync"
)

// Reply is an answer's fields, without the id of its command.
type Reply = map[string]any

// Verbs are what a driver can do, by op, with commands of its own kind.
type Verbs[C any] map[string]func(*C) (Reply, error)

type head struct {
	ID int64  `json:"id"`
	Op string `json:"op"`
}

// Serve answers each line when its verb has ended, whatever else is under way; it returns when stdin ends.
func Serve[C any](verbs Verbs[C]) {
	var lock sync.Mutex
	out := json.NewEncoder(os.Stdout)
	lines := bufio.NewReaderSize(os.Stdin, 1<<16)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return
		}
		named, command := head{}, new(C)
		for _, into := range []any{&named, command} {
			if err := json.Unmarshal(line, into); err != nil {
				panic(err)
			}
		}
		go verbs.answer(named, command, out, &lock)
	}
}

func (verbs Verbs[C]) answer(named head, command *C, out *json.Encoder, lock *sync.Mutex) {
	result, err := verbs.run(named.Op, command)
	if err != nil {
		result = Reply{"error": err.Error()}
	}
	result["id"] = named.ID
	lock.Lock()
	defer lock.Unlock()
	if err := out.Encode(result); err != nil {
		panic(err)
	}
}

func (verbs Verbs[C]) run(op string, command *C) (Reply, error) {
	verb, known := verbs[op]
	if !known {
		return nil, fmt.Errorf("this driver has no %s", op)
	}
	return verb(command)
}
