module rmq-test-lines

go 1.24
