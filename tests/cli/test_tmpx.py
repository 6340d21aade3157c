def test_x(cli, tiny_model, picture, voc, tmp_path):
    for a in (["predict", picture, "--model", tiny_model], ["predict", picture, tmp_path/"no.jpg", "-m", tiny_model], ["evaluate","--data",voc,"-m",tiny_model], ["list"], ["predict"],
      ["train","--data",voc,"--no-pretrained-backbone","--epochs","1","--size","64","--workers","0","--batch-size","2","--out","run"]):
        r = cli(*a)
        print("#####", a, r.code); print(r.out); print("ERR", r.err)
    import os; os.system("find . -type f")
    assert 0
